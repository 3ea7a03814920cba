//! When deployed projects run.

mod cron;
mod spec;
mod store;

pub(crate) use cron::Times;
pub(crate) use spec::{Notify, RawNotify, RawSchedule, Spec, Target};
pub(crate) use store::{prepare, replace};
