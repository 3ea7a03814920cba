//! `skep pipeline test`: runs the unit tests of a project in this process.
//!
//! # Not here
//! What they are (`skep_pipeline::unit`).

use std::process::ExitCode;

use skep_common::{Result, clock};
use skep_pipeline::unit;

use super::{read, wrong};
use crate::cli::PipelineProject;

pub(super) async fn run(args: &PipelineProject) -> Result<ExitCode> {
    let Some((project, bundle)) = read(args)? else { return Ok(ExitCode::from(1)) };
    let tested = unit::run(&project, &args.select, &args.exclude, &clock::system()).await?;
    let mut failed = 0;
    for test in &tested {
        let state = if test.wrong.is_some() { "FAILED" } else { "ok    " };
        println!("{state} {} {} ({} ms)", test.model, test.file, test.took.as_millis());
        if let Some(finding) = &test.wrong {
            failed += 1;
            wrong(finding, &bundle);
        }
    }
    let tests =
        |count: usize| if count == 1 { "1 unit test".to_owned() } else { format!("{count} unit tests") };
    match (tested.len(), failed) {
        (0, _) => println!("no unit tests: they are the files of tests/unit"),
        (all, 0) => println!("ok     {}", tests(all)),
        (all, failed) => println!("FAILED {failed} of {}", tests(all)),
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}
