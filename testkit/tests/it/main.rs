//! Tests of the whole program.

mod flights;
mod judge;
mod process;
mod slt;
mod tpch;
