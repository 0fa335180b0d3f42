//! The command line `tiebeam`, also installed as `confd_client`.

fn main() -> std::process::ExitCode {
    tiebeam::cli::main()
}
