//! Generates the gRPC code and the descriptor set from `proto/`, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::FileDescriptorSet;
use protox::prost_reflect::{DynamicMessage, ReflectMessage, Value, prost::Message};

const PROTO_ROOT: &str = "proto";
const PACKAGE_DIR: &str = "proto/lattice/control/v1";
/// The rules of fields are for clients: they travel with the descriptors, and no code is made of them.
const RULES: &str = "buf.validate";
/// So do the details of errors, which no message names: tools read by the descriptors what an error has. `tonic-types` is their code.
const ERROR_DETAILS: &str = "google/rpc/error_details.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut files = fs::read_dir(PACKAGE_DIR)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.push(PathBuf::from(PROTO_ROOT).join(ERROR_DETAILS));
    files.sort();

    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;

    let encoded = without_comments_on_rules(&compiler.encode_file_descriptor_set())?;
    fs::write(out_dir.join("descriptor_set.bin"), &encoded)?;

    generate_grpc(compiler.file_descriptor_set())?;
    pbjson_build::Builder::new()
        .btree_map(["."])
        .register_descriptors(&encoded)?
        .build(&[".lattice.control.v1", ".google.rpc.Status"])?;
    Ok(())
}

/// They would be more than all the rest.
fn without_comments_on_rules(encoded: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    // Options that are extensions stay, unlike in the generated type.
    let mut set = DynamicMessage::decode(FileDescriptorSet::default().descriptor(), encoded)?;
    let files = set.get_field_by_name_mut("file").and_then(Value::as_list_mut);
    for file in files.into_iter().flatten().filter_map(Value::as_message_mut) {
        let package = file.get_field_by_name("package");
        if package.is_some_and(|package| package.as_str() == Some(RULES)) {
            file.clear_field_by_name("source_code_info");
        }
    }
    Ok(set.encode_to_vec())
}

fn generate_grpc(mut descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    descriptors
        .file
        .retain(|file| file.package() != RULES && file.name() != ERROR_DETAILS);
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .codec_path("crate::codec::SmallCodec")
        // Map order must not depend on a hash seed: bodies and fingerprints are compared byte for byte.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
