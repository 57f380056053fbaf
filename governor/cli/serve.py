# SPDX-License-Identifier: Apache-2.0
"""`teg serve`: Triton with the governed backend, on loopback, until it is told to stop."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from governor.server import TritonServer


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    parser = subparsers.add_parser("serve", help="serve models with Triton and the governed backend")
    parser.add_argument("--models", help="comma-separated names (default: all of the repository)")
    parser.add_argument("--repository", type=Path, help="model repository (default: the example models)")
    parser.add_argument("--run-dir", type=Path, help="where pages, ports and the API key go")
    parser.add_argument("--tritonserver", type=Path, metavar="PATH", help="another server than the wheel's")
    parser.add_argument("--address", default="127.0.0.1", help="where to listen (default: %(default)s)")
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port", type=_port, default=port, help="0 picks a free one (default: %(default)s)"
        )
    parser.add_argument("--publish", action="store_true", help="let the holder of the API key load new versions")
    parser.add_argument(
        "--no-supervision", action="store_true", help="end with the server instead of starting again what died"
    )
    parser.add_argument("--auto-complete", action="store_true", help="let models fill in what config.pbtxt leaves out")
    parser.add_argument("--keep-going", action="store_true", help="serve the other models if one does not load")
    parser.add_argument("--log", type=Path, help="where the server's output goes (default: standard error)")
    parser.add_argument(
        "--i-know",
        action="store_true",
        help="listen beyond loopback although this server may predate the fixes of 25.07",
    )
    parser.set_defaults(handler=serve)


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal; 0 after one, 1 if it failed, 3 if it would be unsafe. What dies is started again."""
    from governor.backend_folder import ModelNotFound, ServerNotInstalled
    from governor.cli import DONE, NO, REFUSED, USAGE
    from governor.errors import ServerBusy, ServerFailed
    from governor.ports import Ports
    from governor.server import TritonServer
    from governor.supervision import Supervisor

    logging.basicConfig(format="teg serve: %(message)s")
    try:
        if not ipaddress.ip_address(args.address).is_loopback and not args.i_know:
            return _say(
                REFUSED, f"{args.address} is not loopback; the server may predate the fixes of 25.07 (--i-know)"
            )
        server = TritonServer(
            args.repository or _example_models(),
            models=args.models.split(",") if args.models else None,
            run_dir=args.run_dir,
            log_path=args.log,
            ports=Ports(args.http_port, args.grpc_port, args.metrics_port),
            address=args.address,
            binary=args.tritonserver,
            publish=args.publish,
            auto_complete=args.auto_complete,
            strict=not args.keep_going,
        )
    except ValueError as error:
        return _say(USAGE, f"--address: {error}")
    _stop_by_signal()
    try:
        with server:
            _announce(server)
            if args.no_supervision:
                return _say(NO, f"tritonserver ended with {server.wait()}")
            Supervisor(server).run()
    except (ModelNotFound, ServerNotInstalled) as error:
        return _say(USAGE, str(error))
    except ServerBusy as error:
        return _say(REFUSED, str(error))
    except ServerFailed as error:
        return _say(NO, str(error))
    except KeyboardInterrupt:
        return DONE


def _stop_by_signal() -> None:
    """Turn the first SIGTERM or SIGINT into a `KeyboardInterrupt`, wherever this is; those after it change nothing."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _announce(server: TritonServer) -> None:
    for model, reason in server.failed.items():
        print(f"not serving {model}: {reason}", file=sys.stderr)
    served = [model for model in server.models if model not in server.failed]
    print(f"serving {', '.join(served)}")
    print(f"http {server.http_url}  grpc {server.grpc_url}  metrics {server.metrics_url}", flush=True)


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is no port")
    return number


def _example_models() -> Path:
    import model_repository

    return Path(model_repository.__file__).parent


def _say(code: int, message: str) -> int:
    print(f"teg serve: {message}", file=sys.stderr)
    return code
