//! Turns the protos into Rust without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos = [
        "naru/control/v1/control.proto",
        "naru/links/v1/links.proto",
        "naru/worker/v1/worker.proto",
    ];
    let files = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure().btree_map(".naru.control").compile_fds(files)?;
    Ok(())
}
