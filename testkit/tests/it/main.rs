//! Tests of the whole program.

mod adbc;
mod ballista_spike;
mod flights;
mod judge;
mod lanes_codec;
mod lanes_faults;
mod lanes_rows;
mod lanes_write;
mod process;
mod slt;
mod tpch;
