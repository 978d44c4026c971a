//! Compiles the protos without protoc: generated code and a descriptor set.

use std::{env, error::Error, fs, path::PathBuf};

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
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptor.bin");
    fs::write(out, compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
