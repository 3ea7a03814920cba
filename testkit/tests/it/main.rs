//! Tests of the whole program.

#![allow(clippy::unwrap_used, reason = "a test helper that panics is a test that fails")]

mod adbc;
mod admin;
mod care;
mod changes;
mod chaos;
mod crash;
mod cuts;
mod disks;
mod doors;
mod drill;
mod flights;
mod jdbc;
mod judge;
mod judge_back;
mod judge_ddl;
mod judge_dml;
mod lanes_codec;
mod lanes_durable;
mod lanes_faults;
mod lanes_hazards;
mod lanes_rows;
mod lanes_write;
mod loads;
mod locations;
mod memory;
mod other_stores;
mod partitions;
mod pipeline_kills;
mod pipelines;
mod postgres;
mod process;
mod pty;
mod python;
mod schedules;
mod sessions;
mod slt;
mod staged_runs;
mod store_cli;
mod store_faults;
mod terminal;
mod tpcds;
mod tpch;
mod unit_tests;
mod watching;
