//! Runs tasks: source connectors, view processors, sink connectors.
