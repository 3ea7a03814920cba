//! KILL QUERY.

use std::str::FromStr;

use skep_common::{Error, QueryId, Result};

use super::Run;
use crate::session::Outcome;

impl Run {
    /// Ends another statement, of whichever session. It stops a moment later.
    pub(super) async fn kill(self, query: &str) -> Result<Outcome> {
        let id = QueryId::from_str(query).map_err(|_| {
            Error::invalid(format!("'{query}' is not the id of a query"))
                .hint("SELECT query_id, statement FROM system.queries WHERE ended_at IS NULL shows what runs")
        })?;
        let by =
            format!("query '{id}' was killed by '{}' in session '{}'", self.session.user, self.session.id);
        self.shared.queries.kill(id, &by).await?;
        Ok(self.done("KILL QUERY", None))
    }
}
