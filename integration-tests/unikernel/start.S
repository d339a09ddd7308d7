/* PVH entry of the tests' unikernel: 32-bit protected mode without paging, EBX is the address of the start info.
 * Maps the first 4 GiB one to one, goes to long mode and calls `unikernel`. */

    .section .note.pvh, "a", @note
    .long 4, 4, 18              /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .text
    .code32
    .global start
start:
    movl $stack_end, %esp
    movl %ebx, %edi             /* first argument of `unikernel` */

    movl $page_directories, %eax    /* a page directory for each GiB */
    orl $3, %eax
    movl $page_directory_pointers, %edx
    movl $4, %ecx
1:  movl %eax, (%edx)
    addl $4096, %eax
    addl $8, %edx
    loop 1b

    movl $0x83, %eax            /* present, writable, 2 MiB */
    movl $page_directories, %edx
    movl $2048, %ecx
2:  movl %eax, (%edx)
    addl $0x200000, %eax
    addl $8, %edx
    loop 2b

    movl $page_directory_pointers, %eax
    orl $3, %eax
    movl %eax, page_map
    movl $page_map, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax             /* PAE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx      /* EFER */
    rdmsr
    orl $0x100, %eax            /* LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax       /* PG, PE */
    movl %eax, %cr0
    lgdt descriptors_pointer
    ljmp $8, $long_mode

    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %edi, %edi
    call unikernel
3:  hlt
    jmp 3b

    .section .rodata
    .balign 8
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff    /* 64-bit code */
    .quad 0x00cf93000000ffff    /* data */
descriptors_pointer:
    .word . - descriptors - 1
    .long descriptors

    .bss
    .balign 4096
page_map:
    .skip 4096
page_directory_pointers:
    .skip 4096
page_directories:
    .skip 4 * 4096
    .skip 16384
stack_end:

    .section .note.GNU-stack, "", @progbits
