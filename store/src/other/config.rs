//! Settings of the stores that are not ours. Tables `[store.s3]`, `[store.hdfs]`, `[store.cache]` of the config file.
//!
//! # Not here
//! Settings of the replicated store (`crate::config`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use skep_common::ByteSize;
use url::Url;

/// How `s3://` is reached. What is absent here is taken from `AWS_*` in the environment, then from the machine's role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3 {
    /// Where the service listens, `http://HOST:PORT` or `https://HOST`. Absent: Amazon, by the region.
    pub endpoint: Option<Url>,
    /// The region. Absent: `us-east-1`, which services beside Amazon take.
    pub region: Option<String>,
    /// Who asks.
    pub access_key_id: Option<String>,
    /// The proof of it.
    pub secret_access_key: Option<Hidden>,
    /// The third part of credentials that end.
    pub session_token: Option<Hidden>,
    /// Requests without credentials, for buckets that everybody may read.
    pub anonymous: bool,
    /// The bucket is part of the host name, and not of the path.
    pub virtual_hosted: bool,
    /// How long to wait for a connection. 10 ms to 10 min.
    #[serde(with = "skep_common::unit::duration")]
    pub connect_timeout: Duration,
    /// How long one request may take, its bytes included. 100 ms to 1 h.
    #[serde(with = "skep_common::unit::duration")]
    pub request_timeout: Duration,
    /// How often a request is sent again that failed for a reason that passes. 0 to 100.
    pub retries: u32,
    /// How long that goes on in all. 0 ms to 1 h.
    #[serde(with = "skep_common::unit::duration")]
    pub retry_timeout: Duration,
    /// Buckets that are reached in another way, by their names. What is absent in one is as above.
    pub buckets: BTreeMap<String, Bucket>,
}

/// What is different for one bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bucket {
    /// Where the service listens.
    pub endpoint: Option<Url>,
    /// The region.
    pub region: Option<String>,
    /// Who asks.
    pub access_key_id: Option<String>,
    /// The proof of it.
    pub secret_access_key: Option<Hidden>,
    /// The third part of credentials that end.
    pub session_token: Option<Hidden>,
    /// Requests without credentials.
    pub anonymous: Option<bool>,
    /// The bucket is part of the host name.
    pub virtual_hosted: Option<bool>,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            anonymous: false,
            virtual_hosted: false,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            retries: 8,
            retry_timeout: Duration::from_secs(60),
            buckets: BTreeMap::new(),
        }
    }
}

impl S3 {
    /// How `bucket` is reached.
    pub(crate) fn of(&self, bucket: &str) -> Self {
        let mut own = Self { buckets: BTreeMap::new(), ..self.clone() };
        let Some(other) = self.buckets.get(bucket).cloned() else { return own };
        if other.access_key_id.is_some() {
            // Credentials go together.
            own.session_token = None;
        }
        own.endpoint = other.endpoint.or(own.endpoint);
        own.region = other.region.or(own.region);
        own.access_key_id = other.access_key_id.or(own.access_key_id);
        own.secret_access_key = other.secret_access_key.or(own.secret_access_key);
        own.session_token = other.session_token.or(own.session_token);
        own.anonymous = other.anonymous.unwrap_or(own.anonymous);
        own.virtual_hosted = other.virtual_hosted.unwrap_or(own.virtual_hosted);
        own
    }
}

/// How `hdfs://` is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hdfs {
    /// The folder of `core-site.xml` and `hdfs-site.xml`. Absent: `HADOOP_CONF_DIR` of the environment, if it is set.
    pub conf: Option<PathBuf>,
    /// Name services by their names, each with the `HOST:PORT` of its NameNodes: an `hdfs://NAME` without a port.
    pub nameservices: BTreeMap<String, Vec<String>>,
    /// Further settings of Hadoop by their names. They count more than those of the folder.
    pub options: BTreeMap<String, String>,
    /// How long one call may take, or the next bytes of a file. 100 ms to 1 h.
    #[serde(with = "skep_common::unit::duration")]
    pub timeout: Duration,
    /// How often a call is made again that failed for a reason that passes, such as a NameNode that takes over. 0 to 100.
    pub retries: u32,
    /// Age of a file that a writer began and never finished, after which it is deleted when it is seen in a listing.
    /// 1 min to 30 d.
    #[serde(with = "skep_common::unit::duration")]
    pub unfinished_age: Duration,
}

impl Default for Hdfs {
    fn default() -> Self {
        Self {
            conf: None,
            nameservices: BTreeMap::new(),
            options: BTreeMap::new(),
            timeout: Duration::from_secs(60),
            retries: 6,
            unfinished_age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What is kept of the bytes that were read from S3 and HDFS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Whether anything is.
    pub enabled: bool,
    /// Bytes in memory, beside the memory for queries. 1 MiB to 1 TiB.
    pub memory: ByteSize,
    /// Bytes on disk; 0: in memory alone. Else 64 MiB to 1 PiB.
    pub disk: ByteSize,
    /// Where. Absent: the folder `cache` of the process's data folder.
    pub folder: Option<PathBuf>,
    /// Bytes that are read and kept together. 64 KiB to 8 MiB.
    pub block: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            memory: ByteSize::mib(64),
            disk: ByteSize::mib(10 << 10),
            folder: None,
            block: ByteSize::mib(1),
        }
    }
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// What is out of range in the three tables, each as a piece of text.
pub(crate) fn problems(s3: &S3, hdfs: &Hdfs, cache: &Cache) -> Vec<String> {
    let mut wrong = Vec::new();
    let (ms, hour) = (Duration::from_millis, Duration::from_secs(3600));
    for (name, value, min, max) in [
        ("s3.connect_timeout", s3.connect_timeout, ms(10), hour / 6),
        ("s3.request_timeout", s3.request_timeout, ms(100), hour),
        ("s3.retry_timeout", s3.retry_timeout, ms(0), hour),
        ("hdfs.timeout", hdfs.timeout, ms(100), hour),
        ("hdfs.unfinished_age", hdfs.unfinished_age, hour / 60, 24 * 30 * hour),
    ] {
        if !(min..=max).contains(&value) {
            wrong.push(format!("{name} is not between {min:?} and {max:?}"));
        }
    }
    for (name, value) in [("s3.retries", s3.retries), ("hdfs.retries", hdfs.retries)] {
        if value > 100 {
            wrong.push(format!("{name} = {value} is more than 100"));
        }
    }
    for (name, value, min, max) in [
        ("cache.memory", cache.memory, 1 << 20, 1 << 40),
        ("cache.disk", cache.disk, 64 << 20, 1 << 50),
        ("cache.block", cache.block, 64 << 10, 8 << 20),
    ] {
        let off = name == "cache.disk" && value.0 == 0;
        if !off && !(min..=max).contains(&value.0) {
            wrong.push(format!("{name} = {value} is not between {} and {}", ByteSize(min), ByteSize(max)));
        }
    }
    let half = |id: &Option<String>, secret: &Option<Hidden>| id.is_some() != secret.is_some();
    if half(&s3.access_key_id, &s3.secret_access_key) {
        wrong.push("s3.access_key_id and s3.secret_access_key go together".to_owned());
    }
    for (name, bucket) in &s3.buckets {
        if half(&bucket.access_key_id, &bucket.secret_access_key) {
            wrong.push(format!("s3.buckets.{name}: access_key_id and secret_access_key go together"));
        }
    }
    for (name, nodes) in &hdfs.nameservices {
        if nodes.is_empty() || nodes.iter().any(|node| node.rsplit_once(':').is_none()) {
            wrong.push(format!("hdfs.nameservices.{name} does not list NameNodes as HOST:PORT"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_shown_to_nobody() {
        let s3 = S3 { secret_access_key: Some("geheim".to_owned().into()), ..S3::default() };
        let shown = format!("{s3:?} {}", serde_json::to_string(&s3).unwrap());
        assert!(!shown.contains("geheim"), "{shown}");
        assert_eq!(s3.secret_access_key.unwrap().reveal(), "geheim");
    }

    #[test]
    fn a_bucket_may_be_elsewhere() {
        let mut s3 = S3 { region: Some("here".to_owned()), ..S3::default() };
        s3.session_token = Some("t".to_owned().into());
        let endpoint: Url = "http://127.0.0.1:1".parse().unwrap();
        let other = Bucket {
            endpoint: Some(endpoint.clone()),
            access_key_id: Some("a".to_owned()),
            secret_access_key: Some("b".to_owned().into()),
            ..Bucket::default()
        };
        s3.buckets.insert("b".to_owned(), other);
        assert_eq!(s3.of("a").endpoint, None);
        let b = s3.of("b");
        assert_eq!((b.endpoint, b.region.as_deref(), b.session_token), (Some(endpoint), Some("here"), None));
    }

    #[test]
    fn everything_wrong_is_said() {
        assert_eq!(problems(&S3::default(), &Hdfs::default(), &Cache::default()), Vec::<String>::new());
        let s3 = S3 { access_key_id: Some("a".to_owned()), retries: 101, ..S3::default() };
        let mut hdfs = Hdfs::default();
        hdfs.nameservices.insert("ns".to_owned(), vec!["host".to_owned()]);
        let cache = Cache { block: ByteSize(1), ..Cache::default() };
        let said = problems(&s3, &hdfs, &cache).join("; ");
        for what in ["go together", "s3.retries", "nameservices.ns", "cache.block"] {
            assert!(said.contains(what), "{what} in {said}");
        }
    }
}
