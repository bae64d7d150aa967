//! The servers and the sample, against real servers.

mod sample;
mod servers;
