//! Servers for demo and tests, the four departments, the test kit.
