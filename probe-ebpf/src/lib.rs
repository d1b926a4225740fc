//! Empty: lets Cargo see a library.
#![no_std]
