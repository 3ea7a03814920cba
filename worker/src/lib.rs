//! Runs tasks of both lanes and serves blocks
