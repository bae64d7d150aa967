//! The PostgreSQL source and sink.
