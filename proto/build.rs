//! Compiles the protos without an installed protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "omma/v1/backup_service.proto",
        "omma/v1/cluster_service.proto",
        "omma/v1/collection_service.proto",
        "omma/v1/filter.proto",
        "omma/v1/image_service.proto",
        "omma/v1/search_service.proto",
        "omma/internal/v1/commands.proto",
        "omma/internal/v1/placement_service.proto",
        "omma/internal/v1/raft_service.proto",
        "omma/internal/v1/shard_service.proto",
        "omma/internal/v1/stored.proto",
    ];
    println!("cargo:rerun-if-changed=omma");
    println!("cargo:rerun-if-changed=google");

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    let out = std::env::var("OUT_DIR")?;
    let descriptors = Path::new(&out).join("descriptors.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;

    let mut prost = tonic_prost_build::Config::new();
    // Pictures and embeddings travel without being copied out of the received frame.
    prost.bytes([".omma.v1.NewImage.picture", ".omma.v1.Query.picture", ".omma.internal.v1"]);
    // Attribute maps are replicated and digested: their encoding must have one order.
    prost.btree_map(["."]);
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)?;
    Ok(())
}
