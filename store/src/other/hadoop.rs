//! Reads the settings of Hadoop from `core-site.xml` and `hdfs-site.xml`.
//!
//! The client of HDFS finds them by an environment variable alone; here the folder is a setting.
//!
//! # Not here
//! What the settings mean: that is the client's.

use std::collections::BTreeMap;
use std::path::Path;

use skep_common::{Error, Result};

/// The files, the later ones counting more.
const FILES: [&str; 2] = ["core-site.xml", "hdfs-site.xml"];

/// The properties of the files in `folder`.
///
/// # Errors
/// `Invalid` if neither file is there, or one cannot be read.
pub(super) fn read(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut found = false;
    for name in FILES {
        let path = folder.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::invalid(format!("cannot read '{}'", path.display())).source(e)),
        };
        found = true;
        let properties = properties(&text).ok_or_else(|| {
            Error::invalid(format!("'{}' does not have the form of Hadoop's settings", path.display()))
                .hint("<configuration><property><name>..</name><value>..</value></property></configuration>")
        })?;
        all.extend(properties);
    }
    if found {
        return Ok(all);
    }
    Err(Error::invalid(format!("there is neither {} in '{}'", FILES.join(" nor "), folder.display()))
        .hint("[store.hdfs] conf is the folder of Hadoop's settings"))
}

/// `None` where a tag has no end.
fn properties(text: &str) -> Option<Vec<(String, String)>> {
    let text = without_comments(text)?;
    text.contains("<configuration").then_some(())?;
    let mut properties = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("<property>") {
        rest = &rest[at + "<property>".len()..];
        let end = rest.find("</property>")?;
        let (inside, behind) = rest.split_at(end);
        let value = element(inside, "value").unwrap_or_default();
        properties.push((element(inside, "name")?, value));
        rest = behind;
    }
    Some(properties)
}

fn without_comments(text: &str) -> Option<String> {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("<!--") {
        kept.push_str(before);
        rest = comment.split_once("-->")?.1;
    }
    kept.push_str(rest);
    Some(kept)
}

fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    let mut value = inside.trim().to_owned();
    for (escape, letter) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
    {
        value = value.replace(escape, letter);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_of_both_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().message().contains("core-site.xml"));
        let core = "<?xml version=\"1.0\"?>\n<configuration>\n <!-- <property><name>no</name></property> -->\n \
                    <property><name>fs.defaultFS</name><value> hdfs://ns1 </value><final>true</final></property>\n \
                    <property><name>a</name><value>1 &amp; 2</value></property></configuration>";
        std::fs::write(folder.path().join("core-site.xml"), core).unwrap();
        let hdfs = "<configuration><property><value>3</value><name>a</name></property>\
                    <property><name>empty</name></property></configuration>";
        std::fs::write(folder.path().join("hdfs-site.xml"), hdfs).unwrap();
        let all = read(folder.path()).unwrap();
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(all, [("a", "3"), ("empty", ""), ("fs.defaultFS", "hdfs://ns1")]);
        std::fs::write(folder.path().join("hdfs-site.xml"), "<configuration><property><name>a").unwrap();
        assert!(read(folder.path()).unwrap_err().message().contains("hdfs-site.xml"));
    }
}
