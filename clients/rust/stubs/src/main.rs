//! `eldr-client-stubs DESCRIPTORS FOLDER`: messages and clients of a FileDescriptorSet.

use std::{env, error::Error, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [descriptors, folder] = &arguments[..] else {
        return Err("expected DESCRIPTORS FOLDER".into());
    };
    let files = FileDescriptorSet::decode(&fs::read(descriptors)?[..])?;
    tonic_prost_build::configure()
        .build_server(false)
        // They are no contract of ours, and their samples are no Rust.
        .disable_comments([".google", ".grpc"])
        .out_dir(folder)
        .compile_fds(files)?;
    Ok(())
}
