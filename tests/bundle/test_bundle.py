"""What `make bundle` writes: the same each time, signed, and refused by the name of the file where it was touched."""

import hashlib
import json
import re
import shutil
import subprocess

import pack
import pytest
import yaml
from bundle_under_test import HERE, Bundle, content_of, only_folder, python, run_build
from serving import REPOSITORY

# One file of every kind, and a byte of it that says something.
FLIPPED = [
    ("BUNDLE.json", 30), ("LICENSE", 200), ("README.md", 40), ("SHA256SUMS", 3), ("charts/naru/values.yaml", 100),
    ("charts/naru/templates/operator.yaml", 100), ("charts/naru-crds/files/naru.dev_tenants.yaml", 100),
    ("crds/naru.dev_tenants.yaml", 100), ("docs/operating.md", 500), ("images", 300_000), ("install.sh", 20),
    ("models/Tiny_Model.Q4.gguf", 1000), ("registry/uploads", 20), ("registry/model.json", 20),
]  # fmt: skip
MINISIG = "SHA256SUMS.minisig"
# Somebody else's, from minisign's own documentation.
OTHER_KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"


def listed(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {line[66:]: line[:64] for line in lines}


def test_it_is_whole_and_signed(bundle):
    said = bundle.check_it_holds()
    for words in (f"naru {pack.workspace_version()} ", "signature: good", "files: all are as they were signed"):
        assert words in said
    files = content_of(bundle.folder)
    assert set(files) - {"SHA256SUMS", MINISIG} == set(listed(bundle.folder))
    assert {name.split("/")[0] for name in files} == {
        "BUNDLE.json", "LICENSE", "README.md", "SHA256SUMS", MINISIG, "charts", "crds", "docs", "images",
        "install.sh", "models", "registry",
    }  # fmt: skip
    for tree in ("charts/naru", "charts/naru-crds", "crds", "docs"):
        mine = {name.removeprefix(f"{tree}/"): file[0] for name, file in files.items() if name.startswith(f"{tree}/")}
        theirs = {name: file[0] for name, file in content_of(REPOSITORY / tree).items()}
        assert mine == theirs, tree


def test_it_says_what_it_is_made_of(built, model):
    about = json.loads((built / "BUNDLE.json").read_text())
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert about["model"]["files"] == {model.name: digest}
    assert about["model"]["repository"] == "naru/models/tiny-model-q4"
    chart = yaml.safe_load((built / "charts/naru/Chart.yaml").read_text())
    assert about["version"] == chart["appVersion"]
    names = [f"localhost/naru/{each}:{chart['appVersion']}" for each in ("operator", "gateway", "worker")]
    assert list(about["images"]) == names
    assert listed(built)[f"models/{model.name}"] == digest


def test_the_same_input_gives_the_same_bytes(built, binaries, model, signer, tmp_path):
    run_build(binaries, tmp_path, "--model", model, cache=signer)
    again = content_of(only_folder(tmp_path))
    assert again == content_of(built)
    # Over one that is there: the new one takes its place, and nothing else is left.
    (only_folder(tmp_path) / "of-before").write_text("")
    run_build(binaries, tmp_path, "--model", model, cache=signer)
    assert content_of(only_folder(tmp_path)) == again


def test_a_flipped_byte_is_refused_by_the_name_of_its_file(bundle):
    [archive] = (bundle.folder / "images").iterdir()
    for name, position in FLIPPED:
        name = f"images/{archive.name}" if name == "images" else name
        with bundle.flipped(name, position):
            said = bundle.check_refused(name)
            alone = f"  differs from what was signed: {name}\ninstall.sh: "
            assert name == "SHA256SUMS" or said.startswith(alone), said
    bundle.check_it_holds()


def test_a_flipped_byte_of_the_signature_is_refused(bundle):
    lines = (bundle.folder / MINISIG).read_text().splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(4)]
    # The kind, the key's number, the signature; the comment; the signature of both.
    for position in (starts[1] + 1, starts[1] + 8, starts[1] + 50, starts[2] + 25, starts[3] + 20):
        with bundle.flipped(MINISIG, position):
            bundle.check_refused("SHA256SUMS")
    bundle.check_it_holds()


def test_what_was_added_or_taken_is_named(bundle):
    added = bundle.folder / "charts/naru/templates/mine.yaml"
    added.write_text("kind: Secret\n")
    bundle.check_refused("was added, and is not signed: charts/naru/templates/mine.yaml")
    added.unlink()
    kept = bundle.folder.parent / "kept"
    shutil.move(bundle.folder / "LICENSE", kept)
    bundle.check_refused("is missing, or cannot be read: LICENSE")
    (bundle.folder / "LICENSE").symlink_to(kept)
    bundle.check_refused("is not a plain file: LICENSE")
    (bundle.folder / "LICENSE").unlink()
    shutil.move(kept, bundle.folder / "LICENSE")
    (bundle.folder / MINISIG).rename(kept)
    bundle.check_refused(f"{MINISIG} is missing")
    kept.rename(bundle.folder / MINISIG)
    bundle.check_it_holds()


def test_the_key_must_be_the_right_one_and_from_elsewhere(bundle):
    bundle.check_refused("was signed by the key", "not by yours, E7620F1842B4E81F", key=OTHER_KEY)
    # The right number, and another key.
    forged = bundle.key[:20] + OTHER_KEY[20:]
    bundle.check_refused("SHA256SUMS", key=forged)
    inside = bundle.folder / "minisign.pub"
    inside.write_text(f"untrusted comment: mine\n{bundle.key}\n")
    bundle.check_refused("lies in the bundle", key=inside)
    outside = bundle.folder.parent / "minisign.pub"
    inside.rename(outside)
    assert bundle.verify(outside).returncode == 0
    bundle.check_refused("neither a public key", key="RWQ")
    bundle.check_refused("neither a public key", key=bundle.folder.parent / "nowhere.pub")


def test_two_lines_do_without_the_script(built, signer, minisign, tmp_path):
    [key] = (signer / "bundle/minisign.pub").read_text().splitlines()[1:]
    carried = Bundle(tmp_path / "carried", key, None)
    shutil.copytree(built, carried.folder)

    def both():
        text = (HERE / "README.md").read_text()
        [first, second] = re.search(r"```sh\n(.*)\n(.*)\n```", text).groups()
        lines = f"{first.replace('minisign ', f'{minisign} ', 1).replace('RW…', key)} && {second}"
        return subprocess.run(["sh", "-c", lines], cwd=carried.folder, capture_output=True, text=True)

    done = both()
    assert (done.returncode, done.stderr) == (0, ""), done
    assert f"Trusted comment: naru {pack.workspace_version()} " in done.stdout
    with carried.flipped("install.sh", 40):
        done = both()
        assert done.returncode != 0 and "install.sh: FAILED" in done.stdout
    with carried.flipped("SHA256SUMS", 3):
        assert "Signature verification failed" in both().stderr


def test_wrong_usage_says_where_help_is(bundle):
    for arguments, word in [
        (["verify"], "--key is missing"),
        (["verify", "--key"], "--key wants a value"),
        (["push", "--key", bundle.key], "push wants --registry"),
        (["install", "--key", bundle.key, "--registry", "https://registry.example"], "without https://"),
        (["install", "--key", bundle.key, "--set", "a=b"], "--set is no option"),
        (["load", "--key", bundle.key, "--", "--set"], "only install"),
        (["fetch"], "fetch is no command"),
    ]:
        done = bundle.run(*arguments)
        assert done.returncode == 2 and word in done.stderr and "--help" in done.stderr, (arguments, done.stderr)
    assert bundle.run("--help").stdout.startswith("Installs naru from this bundle")


def test_what_is_missing_on_the_machine_is_named(bundle):
    for program in ("openssl", "minisign", "tar"):
        (bundle.path / program).unlink(missing_ok=True)
    assert "neither minisign nor openssl is in PATH" in bundle.check_refused()


def test_a_model_may_be_a_directory_or_none(binaries, signer, tmp_path):
    folder = tmp_path / "Some.Model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name)
    (folder / ".cache").write_text("")
    run_build(binaries, tmp_path / "a", "--model", folder, cache=signer)
    bundle = only_folder(tmp_path / "a")
    assert [name for name in listed(bundle) if name.startswith("models/")] == [
        f"models/Some.Model/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")
    ]
    manifest = json.loads((bundle / "registry/model.json").read_text())
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]]
    assert titles == ["config.json", "model.safetensors", "tokenizer.json"]
    run_build(binaries, tmp_path / "b", cache=signer)
    assert not [name for name in listed(only_folder(tmp_path / "b")) if name.startswith("models/")]
    failed = run_build(binaries, tmp_path / "c", "--model", tmp_path / "none", cache=signer, checked=False)
    assert failed.returncode == 1 and "none is not there" in failed.stderr
    assert not list((tmp_path / "c").iterdir())


def test_a_key_of_minisign_signs(binaries, minisign, tmp_path):
    public, secret = tmp_path / "a.pub", tmp_path / "a.key"
    subprocess.run([minisign, "-G", "-W", "-p", public, "-s", secret], check=True, capture_output=True)
    said = run_build(binaries, tmp_path / "a", "--key", secret, cache=tmp_path)
    key = public.read_text().splitlines()[1]
    assert f"public key: {key}\n" in said.stdout and not (tmp_path / "bundle").exists()
    check = [minisign, "-V", "-H", "-P", key, "-m", only_folder(tmp_path / "a") / "SHA256SUMS"]
    assert "verified" in subprocess.run(check, check=True, capture_output=True, text=True).stdout
    failed = run_build(binaries, tmp_path / "b", "--key", public, cache=tmp_path, checked=False)
    assert failed.returncode == 1 and "no secret key" in failed.stderr


def test_a_key_behind_a_passphrase_signs(built, binaries, model, signer, tmp_path):
    key, words = tmp_path / "protected.key", tmp_path / "words"
    # Of little memory: minisign's own measure is 1 GiB.
    text = (
        "import minisign, sys\nkey = minisign.SecretKey.from_file(sys.argv[1])\n"
        "key.encrypt('a phrase', opslimit=32768, memlimit=1 << 24)\nopen(sys.argv[2], 'wb').write(bytes(key))"
    )
    subprocess.run([python(), "-c", text, signer / "bundle/minisign.key", key], check=True)

    def signed(phrase=None):
        words.write_text(f"{phrase}\n")
        named = {"NARU_BUNDLE_PASSPHRASE_FILE": str(words)} if phrase else {}
        options = ["--key", key, "--model", model]
        return run_build(binaries, tmp_path / "out", *options, cache=tmp_path, environment=named, checked=False)

    assert "NARU_BUNDLE_PASSPHRASE_FILE" in signed().stderr
    assert "wrong password" in signed("another").stderr and not (tmp_path / "out").exists()
    assert signed("a phrase").returncode == 0
    assert content_of(only_folder(tmp_path / "out")) == content_of(built)


def test_the_key_of_a_machine_is_made_once_and_for_its_owner_alone(built, binaries, signer, tmp_path):
    secret = signer / "bundle/minisign.key"
    assert secret.stat().st_mode & 0o777 == 0o600
    before = secret.read_bytes()
    said = run_build(binaries, tmp_path, cache=signer)
    assert secret.read_bytes() == before
    assert f"this machine's own key {secret}, which no passphrase protects" in said.stderr


def test_the_script_pleases_shellcheck(shellcheck):
    done = subprocess.run([shellcheck, HERE / "install.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
