//! The house, kept by tests.
