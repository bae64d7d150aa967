//! Runs tasks: source connectors, view processors, sink connectors.

mod budget;
mod clock;
mod metrics;
mod processor_loop;
mod schema_cache;
mod sink_loop;
mod source_loop;
mod status;
mod task;
