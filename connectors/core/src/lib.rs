//! What a source, a sink and their configuration are.
