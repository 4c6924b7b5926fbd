"""Check a cluster file on this machine, without credentials: `doctor --cluster FILE`.

Three kinds: a file of `ray up`, a RayJob of KubeRay, a batch script of Slurm. Each has its rules; every rule is a function from the file to what
it finds, so a new one is a function and its place in RULES.
"""

from pathlib import Path

import yaml

from sweeper.cluster import kubernetes, launcher, slurm, start_commands
from sweeper.cluster.findings import Finding, in_order
from sweeper.cluster.located import Located, read_yaml
from sweeper.cluster.source import Rule, Source, to_edit


def check(path: Path) -> list[Finding]:
    """Return what is wrong with a cluster file, and what is not advisable, by line.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is none of the three kinds; a YAML file that cannot be read is a finding.
    """
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text (UTF-8): {error}") from error
    lines = tuple(text.splitlines())
    if path.suffix in (".sbatch", ".slurm", ".sh") or any(line.startswith("#SBATCH") for line in lines):
        return _apply(slurm.RULES, Source(path, lines, Located(None, 1, 1)))
    try:
        documents, findings = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return [Finding(mark.line + 1 if mark else 1, f"no YAML: {getattr(error, 'problem', None) or error}")]
    if not documents or not all(isinstance(document.value, dict) for document in documents):
        raise ValueError(f"{path} must be a file of `ray up`, a RayJob or a batch script of Slurm, and is none of them")
    jobs = [document for document in documents if document["kind"].text() == "RayJob"]
    if not jobs and any(not document["apiVersion"].is_missing for document in documents):
        raise ValueError(f"{path} must have a RayJob, got {', '.join(document['kind'].text() for document in documents)}")
    for job in jobs:
        findings += _apply((*kubernetes.RULES, to_edit), Source(path, lines, job))
    if not jobs:
        findings += _check_launcher(Source(path, lines, documents[0]))
    return in_order(findings)


def _check_launcher(source: Source) -> list[Finding]:
    from sweeper.cluster.validation import of_ray  # imports Ray

    findings = _apply((*launcher.RULES, *start_commands.RULES, to_edit), source)
    if not launcher.provider_of(source):
        return findings  # Ray reads nothing without it, and names it by a KeyError
    is_told = any(finding.message.startswith("head_node_type") for finding in findings)  # Ray says it too, without the names
    return findings + [finding for finding in of_ray(source.root) if not (is_told and "head_node_type" in finding.message)]


def _apply(rules: tuple[Rule, ...], source: Source) -> list[Finding]:
    return in_order(finding for rule in rules for finding in rule(source))
