//! What the processes did by themselves, read from their logs and said in plain words.

/// A line of a log, as `tracing` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) level: &'a str,
    pub(crate) target: &'a str,
    /// The message, and its fields as `name=value`.
    body: &'a str,
}

impl<'a> Entry<'a> {
    /// `None` for a line that goes on with the one before.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let (time, rest) = line.split_once(' ')?;
        if !time.starts_with(|c: char| c.is_ascii_digit()) || !time.ends_with('Z') {
            return None;
        }
        let (level, rest) = rest.trim_start().split_once(' ')?;
        let (target, body) = rest.split_once(": ")?;
        Some(Self { level, target, body })
    }

    pub(crate) fn says(&self, message: &str) -> bool {
        self.body.starts_with(message)
    }

    /// The value of a field, without quotes.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        let start = self.body.find(&format!(" {name}="))? + name.len() + 2;
        let rest = &self.body[start..];
        let end = match rest.strip_prefix('"') {
            Some(text) => return text.find('"').map(|end| &text[..end]),
            None => next_field(rest),
        };
        Some(rest[..end].trim())
    }
}

/// Where the next `name=` begins, or the end.
fn next_field(text: &str) -> usize {
    let mut from = 0;
    while let Some(space) = text[from..].find(' ').map(|at| from + at) {
        let word = text[space + 1..].split([' ', '=']).next().unwrap_or_default();
        let named = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if named && text[space + 1 + word.len()..].starts_with('=') {
            return space;
        }
        from = space + 1;
    }
    text.len()
}

/// What `entry` tells a reader of a drill; `None` if it is of no interest. Nodes have the names that the log has.
pub(crate) fn action(entry: &Entry<'_>) -> Option<String> {
    let field = |name| entry.field(name).unwrap_or("?");
    let why = || short(field("error"));
    let block = || tail(field("block"));
    let told = if entry.says("lost; its durable tasks run elsewhere") {
        format!("{} counts as lost: its tasks run elsewhere, its outputs are made again", field("worker"))
    } else if entry.says("run again") {
        format!("the statement runs again in the {} lane: {}", field("lane"), why())
    } else if entry.says("a task never arrived") {
        "a task never arrived at its worker, and is handed out again".to_owned()
    } else if entry.says("replica failed a read") {
        format!("block {} is read from another replica than that of {}: {}", block(), field("node"), why())
    } else if entry.says("replica reported") {
        format!(
            "the replica of block {} on {} is given up ({})",
            block(),
            field("node"),
            field("fault").to_lowercase()
        )
    } else if entry.says("kept blocks") {
        kept(entry.field("round")?)?
    } else if entry.says("a chain of writers failed") {
        format!("a block is written again without {}: {}", field("node"), why())
    } else if entry.says("a replica was not written") {
        format!("a replica on {} was not written, and is made later: {}", field("node"), why())
    } else if entry.says("dropped from the chain") {
        format!("{} is left out of a write that goes on without it: {}", field("node"), why())
    } else if entry.says("a copy failed") {
        format!(
            "a new replica of block {} on {} failed, and is tried again: {}",
            block(),
            field("node"),
            why()
        )
    } else if entry.says("the catalog commit is tried again") {
        format!("a commit is tried again: {}", why())
    } else if matches!(entry.level, "WARN" | "ERROR") {
        // What has no words of its own here is not kept back.
        format!("{}: {}", entry.target, short(entry.body))
    } else {
        return None;
    };
    Some(told)
}

/// The end of a block's id, which tells it from others: ids begin with the time.
pub(crate) fn tail(id: &str) -> &str {
    id.get(id.len().saturating_sub(8)..).unwrap_or(id)
}

/// A round of the keeper of blocks; `None` if it did nothing worth telling.
fn kept(round: &str) -> Option<String> {
    let count = |name: &str| -> Option<u64> {
        let rest = round.split_once(&format!("{name}: "))?.1;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let parts = [
        ("copied", "made anew"),
        ("discarded", "discarded as bad or too many"),
        ("failed", "to be tried again"),
    ];
    let told = parts.iter().filter_map(|(name, words)| match count(name)? {
        0 => None,
        1 => Some(format!("1 replica {words}")),
        count => Some(format!("{count} replicas {words}")),
    });
    let told = told.collect::<Vec<_>>().join(", ");
    (!told.is_empty()).then(|| format!("blocks are kept whole: {told}"))
}

/// Of a chain of errors each part once, and as much as fits a line.
fn short(text: &str) -> String {
    const LONGEST: usize = 160;
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split(": ") {
        // Layers below say what those above have said.
        if part != "transport error" && !parts.contains(&part) {
            parts.push(part);
        }
    }
    cut(&parts.join(": "), LONGEST)
}

/// `text`, cut after `longest` characters.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Option<String> {
        action(&Entry::parse(line).unwrap())
    }

    #[test]
    fn lines_of_logs_become_plain_words() {
        let lost = "2026-01-02T03:04:05.678901Z  WARN skep_coordinator::lanes::durable: lost; its durable tasks run \
                    elsewhere, its outputs are made again worker=\"w2\"";
        assert_eq!(
            told(lost).unwrap(),
            "w2 counts as lost: its tasks run elsewhere, its outputs are made again"
        );
        let again = "2026-01-02T03:04:05Z  WARN skep_coordinator::lanes::run: run again query=0197 \
                     error=\"worker 'w1' was lost: gone\" lane=\"durable\"";
        assert_eq!(
            told(again).unwrap(),
            "the statement runs again in the durable lane: worker 'w1' was lost: gone"
        );
        let read = "2026-01-02T03:04:05Z  WARN skep_store::skep::reader: replica failed a read block=0123456789abcdef \
                    node=w3 error=chunk 0 of a block has another checksum";
        assert_eq!(
            told(read).unwrap(),
            "block 89abcdef is read from another replica than that of w3: chunk 0 of a block has another checksum"
        );
        let kept = "2026-01-02T03:04:05Z  INFO skep_store::keep::service: kept blocks \
                    round=Round { expired: 0, deleted: 4, copied: 1, discarded: 2, failed: 0 }";
        assert_eq!(
            told(kept).unwrap(),
            "blocks are kept whole: 1 replica made anew, 2 replicas discarded as bad or too many"
        );
    }

    #[test]
    fn what_has_no_words_is_told_when_it_warns() {
        let warn = "2026-01-02T03:04:05Z  WARN skep_worker::blocks: could not report blocks error=gone";
        assert_eq!(told(warn).unwrap(), "skep_worker::blocks: could not report blocks error=gone");
        let info =
            "2026-01-02T03:04:05Z  INFO skep_worker::blocks: blocks reported node=w1 known=3 unknown=0";
        assert_eq!(told(info), None);
        let idle = "2026-01-02T03:04:05Z  INFO skep_store::keep::service: kept blocks \
                    round=Round { expired: 0, deleted: 4, copied: 0, discarded: 0, failed: 0 }";
        assert_eq!(told(idle), None);
        assert_eq!(Entry::parse("  the second line of a panic"), None);
    }

    #[test]
    fn chains_of_errors_are_said_once() {
        let text = "node w4: tcp connect error: transport error: tcp connect error: Connection refused";
        assert_eq!(short(text), "node w4: tcp connect error: Connection refused");
        assert_eq!(short(&"x".repeat(200)).len(), 163);
    }

    #[test]
    fn fields_end_where_the_next_begins() {
        let line = "2026-01-02T03:04:05Z  WARN a::b: it failed error=x = 1: no node=w1 block=ab";
        let entry = Entry::parse(line).unwrap();
        assert_eq!(entry.field("error"), Some("x = 1: no"));
        assert_eq!(entry.field("node"), Some("w1"));
        assert_eq!(entry.field("block"), Some("ab"));
        assert_eq!(entry.field("path"), None);
    }
}
