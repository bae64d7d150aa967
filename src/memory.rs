//! The allocator.
//!
//! Batches are blocks of megabytes that come and go, and rows are allocated by one thread and freed by
//! another. glibc keeps what was freed in the heap of the thread that had it, so that each of a
//! worker's thirty threads comes to hold what its busiest moment took.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc is told (its manual, "TUNING"): two heaps, because each keeps pages to itself; a page
/// that nobody uses goes back after half a second, also while nothing is allocated; and what is larger
/// than a full batch with the buffers around it at once.
#[expect(unsafe_code, reason = "the library looks for a symbol of this name")]
// SAFETY: nobody else exports the symbol, and it is what jemalloc expects: a pointer to a string that
// ends with a zero.
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 97] =
    b"narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0,oversize_threshold:10485761,background_thread:true\0";
