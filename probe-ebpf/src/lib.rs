//! Empty: lets Cargo see a library.
