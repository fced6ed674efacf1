//! The `coulomb` command.

fn main() -> std::process::ExitCode {
    coulomb::cli::main()
}
