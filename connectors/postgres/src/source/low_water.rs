//! How many bytes must have arrived before the system wakes a reader, which no crate of ours can set.
#![expect(
    unsafe_code,
    reason = "one call of the C library; the block states why it is sound"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets a socket's `SO_RCVLOWAT`; socket(7), tcp(7). Lowering it wakes a reader of what is there.
pub(super) fn set(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let size = libc::socklen_t::try_from(size_of_val(&value)).expect("an integer is small");
    // SAFETY: the descriptor is open while it is borrowed, and the value lives during the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
