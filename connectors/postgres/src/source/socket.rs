//! What no crate of ours asks the system about a socket.
#![expect(
    unsafe_code,
    reason = "calls of the C library; each block states why it is sound"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Sets a socket's `SO_RCVLOWAT`, the bytes that must have arrived before a reader is woken; socket(7),
/// tcp(7). Lowering it wakes a reader of what is there.
pub(super) fn set_low_water(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
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

/// Returns the shortest time between a packet and its answer that was seen on a connection, the opening one
/// included: `tcpi_min_rtt` of the system's `tcp_info`, where it has that.
pub(super) fn round_trip(socket: &impl AsFd) -> Option<Duration> {
    /// Where it stands in `struct tcp_info` of `linux/tcp.h`, which only ever grows, in units of four bytes.
    const MIN_RTT: usize = 148 / 4;
    let mut info = [0_u32; MIN_RTT + 1];
    let mut size = libc::socklen_t::try_from(size_of_val(&info)).expect("it is small");
    // SAFETY: the descriptor is open while it is borrowed; both places live during the call, which writes no
    // more than `size` says.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    let is_told =
        outcome == 0 && usize::try_from(size).is_ok_and(|size| size == size_of_val(&info));
    is_told.then(|| Duration::from_micros(info[MIN_RTT].into()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_within_this_machine_is_answered_soon() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let time = round_trip(&socket).unwrap();
        assert!(
            time > Duration::ZERO && time < Duration::from_millis(100),
            "{time:?}"
        );
    }
}
