//! How the allocator gives memory back.
//!
//! Batches are blocks of megabytes that come and go. glibc learns from the first of them that is given
//! back to keep such blocks in its heaps, up to 32 MiB each, and there are heaps for every few threads:
//! of three batches on their way a worker then holds twenty. A threshold that is set is not learned.
//! Fewer heaps would hold less still, but threads then wait for each other: a tenth of a view's speed.

/// Blocks from this size on go back to the system when they are freed, and a heap's end when it is so
/// long.
const GIVEN_BACK_BYTES: i32 = 1 << 20;

/// Sets the allocator up. To be called before anything of size is allocated.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn set_up() {
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, GIVEN_BACK_BYTES),
        (libc::M_TRIM_THRESHOLD, GIVEN_BACK_BYTES),
    ] {
        #[expect(unsafe_code, reason = "the allocator has no other interface")]
        // SAFETY: takes two numbers; other threads do not exist yet. What is refused changes nothing.
        let _accepted = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other allocators have their own ways.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn set_up() {}
