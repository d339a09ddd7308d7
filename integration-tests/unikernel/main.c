/* The tests' unikernel: says on COM1 what PVH and ACPI told it, and ends as its command line says: `off` through the
 * FADT's sleep control register, `reset` through its reset register. No interrupts, no memory management. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

struct start_info {
    u32 magic, version, flags, modules;
    u64 module_list, cmdline, rsdp, memory_map;
    u32 memory_map_entries, reserved;
};

struct memory_map_entry {
    u64 start, size;
    u32 kind, reserved;
};

enum { COM1 = 0x3f8, LINE_STATUS = 5, CAN_SEND = 0x20, RAM = 1, MAGIC = 0x336ec578 };
/* ACPI 6.5, 4.8.3.7: SLP_TYPx of \_S5, and SLP_EN. */
enum { SLEEP_TYPE_OFF = 5 << 2, SLEEP_ENABLE = 1 << 5 };
/* Tables 5.9 (FADT), 5.63 (SRAT). */
enum { RESET_PORT = 116 + 4, RESET_VALUE = 128, SLEEP_PORT = 244 + 4, SRAT_FIRST = 48 };

static void out(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static u8 in(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void say(const char *text) {
    for (; *text; text++) {
        while (!(in(COM1 + LINE_STATUS) & CAN_SEND)) {}
        out(COM1, (u8)*text);
    }
}

static void say_number(u64 number) {
    char digits[21];
    char *at = digits + sizeof digits - 1;
    *at = 0;
    do *--at = (char)('0' + number % 10); while (number /= 10);
    say(at);
}

static u32 get32(const u8 *at) { return at[0] | at[1] << 8 | at[2] << 16 | (u32)at[3] << 24; }
static u64 get64(const u8 *at) { return get32(at) | (u64)get32(at + 4) << 32; }

static int sound(const u8 *table, u32 length) {
    u8 sum = 0;
    while (length--) sum += *table++;
    return sum == 0;
}

/* The table with this signature, if its checksum is right. */
static const u8 *table(const u8 *rsdp, const char *signature) {
    const u8 *xsdt = (const u8 *)get64(rsdp + 24);
    for (u32 at = 36; at + 8 <= get32(xsdt + 4); at += 8) {
        const u8 *found = (const u8 *)get64(xsdt + at);
        if (get32(found) == get32((const u8 *)signature) && sound(found, get32(found + 4))) return found;
    }
    return 0;
}

static int has_word(const char *line, const char *word) {
    while (*line) {
        const char *wanted = word;
        while (*line && *line == *wanted) line++, wanted++;
        if (!*wanted && (!*line || *line == ' ')) return 1;
        while (*line && *line != ' ') line++;
        while (*line == ' ') line++;
    }
    return 0;
}

static void say_node(u32 domain, u64 memory, u32 processors) {
    say("node ");
    say_number(domain);
    say(": ");
    say_number(memory >> 20);
    say(" MiB, ");
    say_number(processors);
    say(" processors\n");
}

/* Memory and processors of each proximity domain. */
static void say_nodes(const u8 *srat) {
    for (u32 domain = 0, found = 1; found; domain++) {
        u64 memory = 0;
        u32 processors = 0;
        found = 0;
        for (u32 at = SRAT_FIRST; at < get32(srat + 4) && srat[at + 1]; at += srat[at + 1]) {
            const u8 *entry = srat + at;
            if (entry[0] == 0 && entry[2] == domain && entry[4] & 1) processors++, found = 1;
            if (entry[0] == 2 && get32(entry + 4) == domain && entry[12] & 1) processors++, found = 1;
            if (entry[0] == 1 && get32(entry + 2) == domain && entry[28] & 1) memory += get64(entry + 16), found = 1;
        }
        if (found) say_node(domain, memory, processors);
    }
}

void unikernel(const struct start_info *info) {
    const struct memory_map_entry *entries = (const struct memory_map_entry *)info->memory_map;
    const char *cmdline = (const char *)info->cmdline;
    const u8 *rsdp = (const u8 *)info->rsdp;
    u64 memory = 0;

    say(info->magic == MAGIC ? "unikernel: started by PVH\n" : "unikernel: no start info\n");
    say("cmdline: ");
    say(cmdline);
    for (u32 index = 0; index < info->memory_map_entries; index++)
        if (entries[index].kind == RAM) memory += entries[index].size;
    say("\nmemory: ");
    say_number(memory >> 10);
    say(" KiB\n");
    if (!sound(rsdp, 36)) say("no RSDP\n");
    const u8 *srat = table(rsdp, "SRAT"), *fadt = table(rsdp, "FACP");
    if (srat) say_nodes(srat);
    if (!fadt) say("no FADT\n");
    else if (has_word(cmdline, "off")) out(get32(fadt + SLEEP_PORT), SLEEP_TYPE_OFF | SLEEP_ENABLE);
    else if (has_word(cmdline, "reset")) out(get32(fadt + RESET_PORT), fadt[RESET_VALUE]);
    say("still here\n");
}
