//! Compiles the protos without protoc: generated code, what is idempotent, and a
//! descriptor set.

use std::{env, error::Error, fs, path::PathBuf};

use tonic_prost_build::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    // tonic-prost-build prints no rerun-if-changed for descriptor sets.
    println!("cargo:rerun-if-changed=proto");

    let mut files =
        vec!["google/rpc/status.proto".to_owned(), "google/rpc/error_details.proto".to_owned()];
    for entry in fs::read_dir("proto/containersvc/v1")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        files.push(format!("containersvc/v1/{name}"));
    }
    files.sort();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;

    // The bytes keep the custom options, which prost's own types would drop.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;

    let set = compiler.file_descriptor_set();
    fs::write(out.join("idempotent.rs"), format!("&{:?}", idempotent(&set)))?;
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .compile_fds(set)?;
    Ok(())
}

/// The paths of the calls that may be repeated, as the proto says.
fn idempotent(set: &FileDescriptorSet) -> Vec<String> {
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let level = method.options.as_ref().and_then(|options| options.idempotency_level);
                if level.is_some_and(|level| level != 0) {
                    let package = file.package();
                    paths.push(format!("/{package}.{}/{}", service.name(), method.name()));
                }
            }
        }
    }
    paths
}
