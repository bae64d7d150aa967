//! Servers for demo and tests, the four departments, the demo, the test kit.
//!
//! This crate is a tool of the workshop and no part of the platform: nothing of the platform
//! depends on it, and it drives the platform only from outside, by processes, HTTP and SQL. The demo
//! looks into a topic as any reader may.
//!
//! Read in this order: where things are put ([`scratch`]), how a process is started, stopped and
//! killed ([`process`]), the two servers ([`kafka`], [`postgres`]), and the runner that gives them
//! to a command ([`runner`]).

pub mod demo;
pub mod departments;
pub mod identity;
pub mod kafka;
pub mod maven;
pub mod port;
pub mod postgres;
pub mod prerequisites;
pub mod process;
pub mod runner;
pub mod scratch;
pub mod testkit;
pub mod tls;
pub mod up;
