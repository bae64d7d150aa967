//! The PostgreSQL source and sink against a real server.

mod sink;
mod source;
