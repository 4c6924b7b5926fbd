"""What Ray's own validation of a cluster file says, without its import at start, credentials or a cloud's library."""

import contextlib
import io
import logging
import re
from typing import Any

from sweeper.cluster.findings import Finding
from sweeper.cluster.located import Located


def of_ray(cluster: Located) -> list[Finding]:
    """Return what `ray up` would refuse a file for, at the nearest line; Ray stops at the first.

    Imports Ray's autoscaler, a quarter of a second; neither boto3 nor a provider's module.
    """
    from click import ClickException  # how Ray's command line says no
    from jsonschema import ValidationError  # comes with Ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it also prints, in colours
            validate_config(prepare_config(cluster.plain()))
    except ValidationError as error:
        return [_located(cluster, error.message, *error.absolute_path)]
    except (ValueError, RuntimeError, ClickException) as error:
        return [_located(cluster, str(error))]
    except Exception as error:  # whatever else Ray's reading of the file meets is a fault of the file
        return [_located(cluster, f"{type(error).__name__}: {error}")]
    finally:
        logging.disable(logging.NOTSET)
    return []


def _located(cluster: Located, message: str, *keys: Any) -> Finding:
    where = cluster.at(*keys)
    words = re.findall(r"[`'\"]([\w.-]+)[`'\"]", message) + re.findall(r"[\w.-]+", message)
    named = [word for word in words if word in where.key_lines]
    line = where.line_of(named[0]) if named else cluster.at(*keys[:-1]).line_of(str(keys[-1])) if keys else where.line
    return Finding(line, f"Ray refuses this: {' '.join(message.split())}")
