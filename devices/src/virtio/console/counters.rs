//! What a console counts.

crate::figures! {
    /// Bytes and clients of one console.
    pub struct ConsoleCounters: "console" {
        printed_bytes: Counter = "Bytes that the guest printed.",
        lost_bytes: Counter = "Printed bytes that were dropped because no client read them in time.",
        typed_bytes: Counter = "Bytes of input to the guest.",
        attached: Counter = "Clients that attached.",
        malformed: Counter = "Buffers that are not valid for a console.",
    }
}
