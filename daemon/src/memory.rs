//! Gives memory that is free again back to the system.
//!
//! The allocator keeps what a burst of requests has needed, scattered between what is in use. A process that has seen
//! an attack or a storm of registrations would stay as large as it was then.

/// Free memory that is not worth a system call.
const WORTH: usize = 512 << 10;

/// Returns whole pages of free memory to the system, if there are many. Takes well below a millisecond for heaps of
/// some ten megabytes.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back() {
    // SAFETY: both take no pointers and may be called at any time by any thread.
    #[expect(unsafe_code, reason = "the allocator of the C library has no other interface")]
    unsafe {
        if libc::mallinfo2().fordblks > WORTH {
            libc::malloc_trim(0);
        }
    }
}

/// Other allocators have ways of their own.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {
    let _ = WORTH;
}
