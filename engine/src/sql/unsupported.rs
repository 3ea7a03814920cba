//! Statements that people know from elsewhere, and what to do instead.

use skep_common::Error;

/// The refusal of a statement that begins with `word`, if it is one that we know and do not have.
pub(super) fn statement(word: &str) -> Option<Error> {
    let word = word.to_ascii_uppercase();
    let hint = match word.as_str() {
        "SAVEPOINT" | "RELEASE" => {
            "a statement that fails leaves its transaction as it was before; there are no savepoints"
        }
        "RENAME" => "ALTER TABLE a RENAME TO b gives a table another name",
        "GRANT" | "REVOKE" | "DENY" => "whoever can connect may read and write every table",
        "PREPARE" | "EXECUTE" | "DEALLOCATE" => "clients prepare statements through Flight SQL",
        "CALL" | "DECLARE" | "FETCH" | "OPEN" | "CLOSE" => "there are no procedures and no cursors",
        "ATTACH" | "DETACH" => "one catalog is open at a time; choose it with --data or --url",
        "LOAD" | "INSTALL" | "EXPORT" | "UNLOAD" | "REPLACE" => {
            "COPY INTO reads files, COPY ... TO writes them"
        }
        "LOCK" | "UNLOCK" | "CACHE" | "UNCACHE" | "FLUSH" | "DISCARD" | "PRAGMA" | "LISTEN" | "NOTIFY" => {
            "leave it out"
        }
        _ => return None,
    };
    Some(Error::unsupported(format!("{word} is not supported by this version")).hint(hint))
}
