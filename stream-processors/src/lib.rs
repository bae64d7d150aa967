//! Views as operators: changes and state in, changes and state out.
