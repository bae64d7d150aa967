//! Views against a simple model, over random changes and random restarts.

mod cases;
mod property;
mod stores;
mod world;
