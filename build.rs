//! Generates the gRPC code and the descriptor set from `proto/`, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::FileDescriptorSet;

const PROTO_ROOT: &str = "proto";
const PACKAGE_DIR: &str = "proto/lattice/control/v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut files = fs::read_dir(PACKAGE_DIR)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();

    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;

    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out_dir.join("descriptor_set.bin"), &encoded)?;

    generate_grpc(compiler.file_descriptor_set())?;
    pbjson_build::Builder::new()
        .btree_map(["."])
        .register_descriptors(&encoded)?
        .build(&[".lattice.control.v1", ".google.rpc"])?;
    Ok(())
}

fn generate_grpc(descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        // Map order must not depend on a hash seed: bodies and fingerprints are compared byte for byte.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
