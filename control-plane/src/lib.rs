//! The domain API, the connector API, the schema registry and their store.
