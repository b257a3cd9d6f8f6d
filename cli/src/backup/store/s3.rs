//! Buckets, with credentials, region and endpoint from the variables `AWS_…` that other tools read too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use omma_common::tls::ServerTrust;

use super::http::WebConnector;
use super::trouble::{StoreError, Whereabouts};

/// One request with its answer, of 5 MiB at most: with four at once, 350 KB/s are too slow.
const REQUEST: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);
/// How often a request that failed in a way that passes is sent again, and for how long at most.
const RETRIES: usize = 8;
const RETRY_FOR: Duration = Duration::from_secs(90);
/// The same for the first request.
const FIRST_RETRIES: usize = 3;
const FIRST_RETRY_FOR: Duration = Duration::from_secs(15);

/// A bucket.
pub(super) struct Opened {
    /// For the first request.
    pub(super) first: Arc<dyn ObjectStore>,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) whereabouts: Whereabouts,
}

/// A bucket by its name, as the environment's variables say.
pub(super) fn open(bucket: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Opened, StoreError> {
    let mut builder = AmazonS3Builder::new();
    let mut authorities = None;
    for (name, value) in environment {
        // An empty one is none, as elsewhere.
        if value.is_empty() || !name.starts_with("AWS_") {
            continue;
        }
        if name == "AWS_CA_BUNDLE" {
            authorities = Some(PathBuf::from(value));
        } else if let Ok(key) = name.to_ascii_lowercase().parse::<Key>() {
            builder = builder.with_config(key, value);
        }
    }
    let anywhere = builder.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
    let options = ClientOptions::new()
        .with_allow_http(anywhere.is_some_and(|said| said.eq_ignore_ascii_case("true")))
        .with_timeout(REQUEST)
        .with_connect_timeout(CONNECT);
    let region = builder.get_config_value(&Key::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = builder.get_config_value(&Key::S3Endpoint).or_else(|| builder.get_config_value(&Key::Endpoint));
    let whereabouts = Whereabouts::Bucket {
        bucket: bucket.to_owned(),
        endpoint: endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com")),
        region,
    };
    let connector = WebConnector::new(ServerTrust { ca: authorities });
    let builder = builder.with_bucket_name(bucket).with_client_options(options).with_http_connector(connector);
    let build = |retries, limit| {
        let built = builder.clone().with_retry(retry(retries, limit)).build();
        built
            .map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            .map_err(|error| StoreError::Settings { reason: super::trouble::innermost(&error).to_string() })
    };
    Ok(Opened { first: build(FIRST_RETRIES, FIRST_RETRY_FOR)?, objects: build(RETRIES, RETRY_FOR)?, whereabouts })
}

fn retry(max_retries: usize, retry_timeout: Duration) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(10),
        ..BackoffConfig::default()
    };
    RetryConfig { backoff, max_retries, retry_timeout }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(variables: &[(&str, &str)]) -> Result<Opened, StoreError> {
        super::open("abc", variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn whereabouts(variables: &[(&str, &str)]) -> (String, String) {
        match open(variables).unwrap().whereabouts {
            Whereabouts::Bucket { endpoint, region, .. } => (endpoint, region),
            Whereabouts::Folder => panic!("a folder"),
        }
    }

    #[test]
    fn the_environment_says_where_and_who() {
        let (endpoint, region) = whereabouts(&[]);
        assert_eq!((endpoint.as_str(), region.as_str()), ("https://s3.us-east-1.amazonaws.com", "us-east-1"));
        let (endpoint, region) = whereabouts(&[("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL", "")]);
        assert_eq!((endpoint.as_str(), region.as_str()), ("https://s3.eu-west-1.amazonaws.com", "eu-west-1"));
        let both = [("AWS_ENDPOINT_URL", "http://a:1"), ("AWS_ENDPOINT_URL_S3", "http://b:2"), ("HOME", "/")];
        assert_eq!(whereabouts(&both).0, "http://b:2");
        let half = open(&[("AWS_ACCESS_KEY_ID", "a")]).err().unwrap().to_string();
        assert!(half.contains("SecretAccessKey"), "{half}");
        assert!(open(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]).is_ok());
        assert!(open(&[("AWS_CA_BUNDLE", "/nowhere")]).is_ok(), "read when it is needed");
    }
}
