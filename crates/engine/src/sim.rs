//! The engine of the tests: instances in memory.
