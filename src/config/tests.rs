use secrecy::ExposeSecret;

use super::sources::parse_file;
use super::*;

fn load(env: &[(&str, &str)], file: &str) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    names::check(&env)?;
    Config::from_sources(&|name| env.get(name).cloned(), &parse_file("coulomb.toml", file)?)
}

#[test]
fn environment_beats_file_beats_default() {
    let config = load(&[("COULOMB_POOL_SIZE", "3")], "pool_size = 5\nlisten = '0.0.0.0:1'").expect("loads");
    assert_eq!((config.pool_size, config.listen.port(), config.projectors), (3, 1, 3));
}

#[test]
fn every_mistake_is_one_sentence_that_names_the_setting() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        (
            &[("COULOMB_LISTEN", "8080")],
            "",
            "COULOMB_LISTEN is `8080`, but must be an address with a port such as 127.0.0.1:8080",
        ),
        (
            &[("COULOMB_POOL_SIZE", "many")],
            "",
            "COULOMB_POOL_SIZE is `many`, but must be a whole number from 0 to 65535",
        ),
        (&[("COULOMB_POOL_SIZE", "0")], "", "COULOMB_POOL_SIZE is 0, but must be at least 1"),
        (&[], "pol_size = 1", "coulomb.toml, line 1: pol_size is not a setting: did you mean pool_size?"),
        (
            &[("STRIPE_WEBHOOK_SECRET_FILE", "/nonexistent/secret")],
            "",
            "STRIPE_WEBHOOK_SECRET_FILE names /nonexistent/secret, which cannot be read: No such file or \
                directory (os error 2)",
        ),
        (
            &[("COULOMB_TLS_CERT", "a.pem")],
            "",
            "COULOMB_TLS_CERT stands alone: set COULOMB_TLS_CERT and COULOMB_TLS_KEY for HTTPS, or neither \
                for HTTP",
        ),
        (
            &[],
            "\npool_size = 4\nlisten = '8080'",
            "coulomb.toml, line 3: listen is `8080`, but must be an address with a port such as \
                127.0.0.1:8080",
        ),
        (
            &[],
            "pool_size = 4\nquota_retention_days = 3",
            "coulomb.toml, line 2: quota_retention_days must be at least 35",
        ),
        (
            &[],
            "pool_size = 4\nlisten_file = '/x'",
            "coulomb.toml, line 2: listen_file is not a setting: did you mean listen?",
        ),
        (
            &[],
            "pool_size = 4\n[more]",
            "coulomb.toml, line 2: more is not a setting: `coulomb config` lists them",
        ),
        (
            &[("COULOMB_POOLSIZE", "1")],
            "",
            "COULOMB_POOLSIZE is not a setting: did you mean COULOMB_POOL_SIZE?",
        ),
        (
            &[("COULOMB_LISTEN_FILE", "/x")],
            "",
            "COULOMB_LISTEN_FILE is not a setting: did you mean COULOMB_LISTEN?",
        ),
        (
            &[("COULOMB_LOG", "inof")],
            "",
            "COULOMB_LOG has `inof`, but must be error, warn, info, debug, trace or off, or target=level, \
                separated by commas",
        ),
        (
            &[("COULOMB_LOG", "info,coulomb=loud")],
            "",
            "COULOMB_LOG has `coulomb=loud`, but must be error, warn, info, debug, trace or off, or \
                target=level, separated by commas",
        ),
        (
            &[("DATABASE_URL", "mysql://coulomb:hunter2@db/coulomb")],
            "",
            "DATABASE_URL must begin with postgres:// or postgresql://",
        ),
        (
            &[],
            "\ndatabase_url = 'postgres://coulomb:hun/ter2@db/coulomb'",
            "coulomb.toml, line 2: database_url has an @ after the first /: in a password write / as %2F, @ \
                as %40 and % as %25",
        ),
        (
            &[("STRIPE_WEBHOOK_SECRET_FILE", "whsec_hunter2")],
            "",
            "STRIPE_WEBHOOK_SECRET_FILE names a file, which cannot be read: No such file or directory (os \
                error 2)",
        ),
        (
            &[("COULOMB_STRIPE_ORG_PER_CUSTOMER", "si")],
            "",
            "COULOMB_STRIPE_ORG_PER_CUSTOMER is `si`, but must be true or false",
        ),
    ];
    for (env, file, sentence) in cases {
        assert_eq!(load(env, file).expect_err("is wrong").to_string(), *sentence);
    }
}

#[test]
fn settings_that_cannot_work_with_stripe_are_refused() {
    let test = ("COULOMB_STRIPE_MODE", "test");
    for (name, value, problem) in [
        ("STRIPE_SECRET_KEY", "sk_test_hun ter2", "has a blank or a control character in it: copy it again"),
        ("STRIPE_SECRET_KEY", "sk_test_hun\tter2", "has a blank or a control character in it: copy it again"),
        (
            "COULOMB_STRIPE_API_BASE",
            "http://example.com",
            "must begin with https://, except on this machine's own loopback address",
        ),
        (
            "COULOMB_STRIPE_API_BASE",
            "https://example.com/?key=hunter2",
            "must end with its host or path: it has a `?` or `#`",
        ),
    ] {
        let error = load(&[test, (name, value)], "").expect_err(value).to_string();
        assert_eq!(error, format!("{name} {problem}"));
        assert!(!error.contains("ter2"), "{error}");
    }
    for base in ["http://127.0.0.1:12111", "http://localhost:1", "http://[::1]:1", "https://example.com/v"] {
        load(&[test, ("COULOMB_STRIPE_API_BASE", base)], "").expect(base);
    }
    load(&[test, ("STRIPE_SECRET_KEY", " sk_test_1 ")], "").expect("blanks around it do not count");
}

#[test]
fn one_source_has_a_secret_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    std::fs::write(&path, "whsec_from_file\n").expect("writes");
    let path = path.to_str().expect("UTF-8");
    let (own, pointer) = (("STRIPE_WEBHOOK_SECRET", "whsec_own"), ("STRIPE_WEBHOOK_SECRET_FILE", path));
    let error = load(&[own, pointer], "").expect_err("both").to_string();
    assert_eq!(error, "STRIPE_WEBHOOK_SECRET_FILE stands beside STRIPE_WEBHOOK_SECRET: set only one");
    let file = format!("stripe_webhook_secret = 'whsec_own'\nstripe_webhook_secret_file = '{path}'");
    let error = load(&[], &file).expect_err("both").to_string();
    let place = "coulomb.toml, line 2: stripe_webhook_secret_file";
    assert_eq!(error, format!("{place} stands beside stripe_webhook_secret: set only one"));
    // The environment overrides the file.
    for (env, file, secret) in [
        (own, format!("stripe_webhook_secret_file = '{path}'"), "whsec_own"),
        (pointer, "stripe_webhook_secret = 'whsec_own'".to_owned(), "whsec_from_file"),
    ] {
        let config = load(&[env], &file).expect("loads");
        assert_eq!(config.stripe_webhook_secret[0].expose_secret(), secret);
    }
}

/// An empty value, as in `deploy/env.example`, does not win over a secret file or the settings file.
#[test]
fn an_empty_value_counts_as_unset() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    std::fs::write(&path, "whsec_from_file\n").expect("writes");
    let named = ("STRIPE_WEBHOOK_SECRET_FILE", path.to_str().expect("UTF-8"));
    let config = load(&[("STRIPE_WEBHOOK_SECRET", ""), named], "stripe_webhook_secret = ''").expect("loads");
    assert_eq!(config.stripe_webhook_secret[0].expose_secret(), "whsec_from_file");
    let config = load(&[("COULOMB_LISTEN", " ")], "listen = '127.0.0.1:9'").expect("loads");
    assert_eq!(config.listen.port(), 9);
    std::fs::write(&path, "\n").expect("writes");
    let error = load(&[named], "").expect_err("it is empty").to_string();
    assert_eq!(error, format!("STRIPE_WEBHOOK_SECRET_FILE names {}, which is empty", path.display()));
}

#[test]
fn secrets_split_at_commas_and_are_hidden() {
    let config = load(&[("STRIPE_WEBHOOK_SECRET", "whsec_a, whsec_b")], "").expect("loads");
    let secrets: Vec<_> = config.stripe_webhook_secret.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["whsec_a", "whsec_b"]);
    let shown = format!("{config:?} {:?}", config.list());
    assert!(!shown.contains("whsec_a"), "{shown}");
}
