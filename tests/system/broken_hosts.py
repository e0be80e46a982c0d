"""Broken hosts for `doctor`: a script that breaks a healthy host, and the cause that doctor must find.

A box may not use the memory controller, so SIGKILL simulates the OOM killer. A box shares the clock of its host, so a
unit file with a future time simulates a clock that was set back.
"""

from __future__ import annotations

from dataclasses import dataclass

DROP_INS = "/etc/systemd/system/litellm.service.d"


@dataclass(frozen=True)
class BrokenHost:
    """A host that the script `damage` breaks, with the first cause that doctor reports and part of its evidence.

    The script `repair` undoes the damage; if it is empty, `doctor --fix` must. `also` are further causes.
    """

    damage: str
    cause: str
    evidence: str
    repair: str = ""
    also: tuple[str, ...] = ()
    outcome: str = "failed"


def drop_in(*lines: str, reload: bool = True) -> str:
    text = "\\n".join(lines)
    return f"mkdir -p {DROP_INS}; printf '[Service]\\n{text}\\n' > {DROP_INS}/mine.conf" + (
        "; systemctl daemon-reload" if reload else ""
    )


NO_DROP_IN = f"rm -r {DROP_INS}; systemctl daemon-reload"
START = "systemctl reset-failed litellm.socket litellm.service; systemctl start litellm"
KEEP_ENV = "cp -p /etc/litellm/litellm.env /root/env; "
OLD_ENV = "mv /root/env /etc/litellm/litellm.env"
#: Mounts a small file system over a folder of the service and fills it.
FILL = (
    "mount -t tmpfs -o size=64k,mode=0700 tmpfs /var/lib/litellm;"
    " head -c 1M /dev/zero > /var/lib/litellm/fill || true"
)
TAKE_PORT = (
    "systemctl stop litellm litellm.socket;"
    " systemd-run --quiet --unit=other python3 -m http.server --bind 127.0.0.1 4000;"
    " until ss -ltn | grep -q :4000; do sleep 0.1; done; ! systemctl start litellm"
)
UNFINISHED = (
    '{"format": 1, "verb": "install", "pid": 1, "began": 1, "purge": false,'
    ' "host": {"paths": [], "units": {}, "user": true}}'
)
#: On one connection, so that one worker counts them all. The main process knows it with the next heartbeat.
GUESS_KEYS = (
    "curl -s http://127.0.0.1:4000/health/liveliness $(for n in $(seq 12); do echo"
    " --next -s -o /dev/null -H x-api-key:sk-$n http://127.0.0.1:4000/v1/models; done); sleep 1.5"
)
UNIT = "/etc/systemd/system/litellm.service"
MARK = "/opt/litellm-systemd/current/release.json"
PACKAGES = "/opt/litellm-systemd/current/lib/python*/site-packages"
CONFIG, SHARED = "/etc/litellm/configs/demo.yml", "/etc/litellm/configs/shared/routing.yml"
#: Starts the service, and waits until the start has failed for the first time.
FAIL = (
    "systemctl restart --no-block litellm;"
    " until systemctl show litellm -p NRestarts -p Result | grep -qE 'NRestarts=[1-9]|exit-code'; do sleep 0.2; done"
)
CALLBACK = "/etc/litellm/configs/mine.py"
ADD_CALLBACK = (
    f"cp -p {CONFIG} /root; sed -i '/^litellm_settings:/a\\  callbacks: [mine.handler]' {CONFIG};"
    f" install -m 0644 /dev/null {CALLBACK}"
)
NO_CALLBACK = f"mv /root/demo.yml {CONFIG}; rm {CALLBACK}"
TYPO, NO_TYPO = f"sed -i s/^model_list/modellist/ {CONFIG}", f"sed -i s/^modellist/model_list/ {CONFIG}"

BROKEN = {
    # --- the host ---
    "disk full": BrokenHost(FILL, "host-disk-full", "/var/lib/litellm", "umount /var/lib/litellm"),
    "no inodes": BrokenHost(
        "cp -a /var/log/journal /root; mount -t tmpfs -o nr_inodes=30 tmpfs /var/log/journal;"
        " cp -a /root/journal/. /var/log/journal; touch /var/log/journal/{1..30} || true",
        "host-inodes",
        "/var/log/journal has",
        "umount /var/log/journal; rm -r /root/journal",
    ),
    "too many workers": BrokenHost(
        "printf 'MemTotal: 600000 kB\\nMemAvailable: 300000 kB\\n' > /root/meminfo;"
        " mount --bind /root/meminfo /proc/meminfo",
        "host-workers",
        "MemTotal: 585 MiB",
        "umount /proc/meminfo",
        outcome="warning",
    ),
    "loopback down": BrokenHost("ip link set lo down", "host-loopback", "without IFF_UP", "ip link set lo up"),
    "loopback without its address": BrokenHost(
        "ip address delete 127.0.0.1/8 dev lo", "host-loopback", "127.0.0.1", "ip address add 127.0.0.1/8 dev lo"
    ),
    "read-only /etc": BrokenHost(
        "mount --bind /etc /etc && mount -o remount,ro,bind /etc",
        "host-read-only",
        "/etc/litellm",
        "umount /etc",
        outcome="warning",
    ),
    "read-only /var": BrokenHost(
        "mount --bind /var /var && mount -o remount,ro,bind /var",
        "host-read-only",
        "/var/lib/litellm is on a read-only file system (and /var/cache/litellm, /var/lib/litellm-systemd)",
        "umount /var",
    ),
    "clock off": BrokenHost(
        f"touch -d '+11 minutes' {UNIT}; systemctl daemon-reload",
        "host-clock",
        "minutes before the installation",
        f"touch {UNIT}; systemctl daemon-reload",
    ),
    "journal off": BrokenHost(
        "mkdir -p /etc/systemd/journald.conf.d; printf '[Journal]\\nStorage=none\\n'"
        " > /etc/systemd/journald.conf.d/mine.conf; systemctl restart systemd-journald",
        "host-journal",
        "/etc/systemd/journald.conf.d/mine.conf:2: Storage=none",
        "rm -r /etc/systemd/journald.conf.d; systemctl restart systemd-journald",
        outcome="warning",
    ),
    "Python gone": BrokenHost(
        "mv /opt/litellm-systemd/current/bin/python /root/python",
        "host-python-gone",
        "python",
        "mv /root/python /opt/litellm-systemd/current/bin/python",
    ),
    "/opt gone": BrokenHost(
        "mkdir /root/void; mount --bind /root/void /opt/litellm-systemd",
        "files-release-gone",
        "/opt/litellm-systemd/releases contains no release",
        "umount /opt/litellm-systemd",
    ),
    # --- the release ---
    "compromised LiteLLM": BrokenHost(
        f"mkdir $(echo {PACKAGES})/litellm-1.107.0.dist-info",
        "release-compromised",
        "LiteLLM 1.107.0: it is reported as compromised",
        f"rmdir {PACKAGES}/litellm-1.107.0.dist-info",
    ),
    "package removed": BrokenHost(
        f"mv {PACKAGES}/httpx /root",
        "release-damaged",
        "site-packages/httpx/__init__.py is missing (and ",
        f"mv /root/httpx $(echo {PACKAGES})",
    ),
    "bit flip": BrokenHost(
        f"cp -p {PACKAGES}/litellm/main.py /root;"
        f" printf '\\377' | dd of=$(echo {PACKAGES})/litellm/main.py bs=1 seek=9999 conv=notrunc status=none",
        "release-damaged",
        "site-packages/litellm/main.py is changed",
        f"cp -p /root/main.py $(echo {PACKAGES})/litellm/",
    ),
    "module unreadable": BrokenHost(
        f"chmod 0600 {PACKAGES}/litellm/main.py {PACKAGES}/boto3/*.py; chmod 0700 {PACKAGES}/httpx",
        "release-damaged",
        "boto3/__init__.py is not readable for litellm (and ",
    ),
    "old LiteLLM": BrokenHost(
        f'cp -p {MARK} /root; sed -Ei \'s/("litellm_released": )"[^"]*"/\\1"2026-01-01"/\' {MARK}',
        "release-old",
        "days ago, on 2026-01-01",
        f"cp -p /root/release.json {MARK}",
        outcome="warning",
    ),
    # --- files ---
    "environment file deleted": BrokenHost("rm /etc/litellm/litellm.env", "files-gone", "litellm.env is missing"),
    "all of /etc/litellm deleted": BrokenHost(
        "rm -r /etc/litellm",
        "files-gone",
        "/etc/litellm/config.yaml is missing; the same kind of change at /etc/litellm/",
        also=("files-gone",),
    ),
    "link deleted": BrokenHost("rm /etc/litellm/config.yaml", "files-gone", "config.yaml is missing"),
    "command deleted": BrokenHost(
        "rm /usr/local/bin/litellmctl", "files-gone", "litellmctl is missing", outcome="warning"
    ),
    "unit deleted": BrokenHost(f"rm {UNIT}", "files-gone", "litellm.service is missing", also=("unit-stale",)),
    "link to nothing": BrokenHost(
        "ln -sfn configs/mine.yml /etc/litellm/config.yaml",
        "files-config-gone",
        "mine.yml",
        "ln -sfn configs/demo.yml /etc/litellm/config.yaml",
    ),
    "keys readable": BrokenHost("chmod 0644 /etc/litellm/litellm.env", "files-secret-open", "mode 0644"),
    "configuration in a home folder": BrokenHost(
        "cp -rp /etc/litellm/configs/. /root/live; ln -sfn /root/live/demo.yml /etc/litellm/config.yaml",
        "files-unreadable",
        "/etc/litellm/config.yaml leads to /root/live/demo.yml, which the sandbox of the service hides",
        "ln -sfn configs/demo.yml /etc/litellm/config.yaml; rm -r /root/live",
    ),
    "configuration unreadable": BrokenHost("chmod 0700 /etc/litellm/configs", "files-unreadable", "mode 0700"),
    "folder above the release closed": BrokenHost(
        "chmod 0700 /opt", "files-unreadable", "/opt has mode 0700", "chmod 0755 /opt"
    ),
    "permissions changed": BrokenHost(
        "chmod 0666 /etc/tmpfiles.d/litellm.conf; chown 1:1 /usr/local/bin/litellmctl",
        "files-access",
        "mode 0666, was 0644; the same kind of change at /usr/local/bin/litellmctl",
        outcome="warning",
    ),
    "copy in place of a link": BrokenHost(
        "cp -p --remove-destination /etc/litellm/configs/demo.yml /etc/litellm/config.yaml",
        "files-kind",
        "was a link",
        "litellmctl config use demo.yml",
        outcome="warning",
    ),
    "link in place of a file": BrokenHost(
        f"mkdir /srv/git; mv {SHARED} /srv/git; ln -s /srv/git/routing.yml {SHARED}",
        "files-kind",
        "is a link, and was a file",
        f"rm {SHARED} && cp -a /srv/git/routing.yml {SHARED} && litellmctl doctor --fix; rm -r /srv/git",
        outcome="warning",
    ),
    "state of root": BrokenHost(
        "chown -R root:root /var/lib/litellm",
        "files-owner",
        "/var/lib/litellm belongs to root",
        "chown -R litellm:litellm /var/lib/litellm",
    ),
    "uid changed": BrokenHost(
        "cp -p /etc/passwd /root; sed -Ei 's/^(litellm:[^:]*:)[0-9]+/\\14711/' /etc/passwd",
        "files-owner",
        ", with which the service runs: litellm has another now",
        "mv /root/passwd /etc/passwd",
    ),
    "users of another service": BrokenHost(
        "cp -p /etc/nsswitch.conf /root; sed -Ei 's/^(passwd|group):.*/\\1: sss/' /etc/nsswitch.conf",
        "files-user-gone",
        "is not looked up there: /etc/nsswitch.conf:",
        "mv /root/nsswitch.conf /etc/",
    ),
    "user deleted": BrokenHost("sed -i /^litellm:/d /etc/passwd", "files-user-gone", "no user litellm"),
    "manifest damaged": BrokenHost(
        "cp -p /var/lib/litellm-systemd/manifest.json /root; echo '{' > /var/lib/litellm-systemd/manifest.json",
        "files-manifest",
        "not the manifest",
        "litellmctl status | grep -q 'is damaged: it is not the manifest' && litellmctl logs --errors &&"
        " mv /root/manifest.json /var/lib/litellm-systemd/",
    ),
    "interrupted change": BrokenHost(
        f"echo '{UNFINISHED}' > /var/lib/litellm-systemd/journal; touch /etc/systemd/system/litellm.service",
        "files-unfinished",
        "unfinished install",
        "litellmctl doctor --fix || test $? = 77",  # what the undo leaves is fixed as well
    ),
    # --- environment and configuration ---
    "wrong key": BrokenHost(
        KEEP_ENV + "sed -i 's/^LITELLM_MASTER_KEY=.*/LITELLM_MASTER_KEY=\"sk-1234\"/' /etc/litellm/litellm.env",
        "environment-unusable",
        "the key of every LiteLLM tutorial",
        OLD_ENV,
    ),
    "unclosed quote": BrokenHost(
        KEEP_ENV + "sed -i '1i MINE=\"1' /etc/litellm/litellm.env",
        "environment-syntax",
        "litellm.env:1: the value of MINE has no closing quote and goes on to line 4; LITELLM_MASTER_KEY in there",
        OLD_ENV,
    ),
    "key in a file of a drop-in": BrokenHost(
        "echo LITELLM_MASTER_KEY=sk-0123456789abcdefghij > /etc/mine.env; "
        + drop_in("EnvironmentFile=/etc/mine.env"),
        "environment-overridden",
        "LITELLM_MASTER_KEY has no effect, since /etc/mine.env:1 sets it again",
        NO_DROP_IN,
        outcome="warning",
    ),
    "file of a drop-in missing": BrokenHost(
        drop_in("EnvironmentFile=/etc/none.env"),
        "environment-unloadable",
        "mine.conf:2: EnvironmentFile=/etc/none.env: it does not exist",
        NO_DROP_IN,
    ),
    "files of the unit dropped": BrokenHost(
        drop_in("EnvironmentFile="),
        "environment-unloadable",
        f"{DROP_INS}/mine.conf:2: EnvironmentFile= without a path removes /etc/litellm/litellm.env",
        NO_DROP_IN,
    ),
    "CA file without a certificate": BrokenHost(
        KEEP_ENV + "echo 'REQUESTS_CA_BUNDLE=\"/etc/hostname\"' >> /etc/litellm/litellm.env",
        "environment-file",
        "/etc/hostname: the file has no usable certificate",
        OLD_ENV,
    ),
    "HOST of another machine": BrokenHost(
        KEEP_ENV + "echo 'HOST=\"192.0.2.7\"' >> /etc/litellm/litellm.env",
        "port-address",
        "HOST=192.0.2.7",
        OLD_ENV,
    ),
    "edited environment": BrokenHost(
        KEEP_ENV + "echo 'MINE=\"1\"' >> /etc/litellm/litellm.env",
        "environment-stale",
        ": MINE",
        OLD_ENV,
        outcome="warning",
    ),
    "variable that nothing reads": BrokenHost(
        KEEP_ENV + "echo 'LITELLM_PORT=\"4005\"' >> /etc/litellm/litellm.env",
        "environment-doubtful",
        "LITELLM_PORT has no effect",
        OLD_ENV,
        outcome="warning",
    ),
    "configuration typo": BrokenHost(TYPO, "configuration-unusable", "did you mean model_list", NO_TYPO),
    "not YAML": BrokenHost(
        f"cp -p {CONFIG} /root; echo '\"' >> {CONFIG}",
        "configuration-unusable",
        "this isn't YAML",
        f"mv /root/demo.yml {CONFIG}",
    ),
    "fallback to nothing": BrokenHost(
        f"cp -p {CONFIG} /root;"
        f" sed -i '/^litellm_settings:/a\\  fallbacks: [{{claude-sonnet-5-5: [missing]}}]' {CONFIG}",
        "configuration-unusable",
        "missing",
        f"mv /root/demo.yml {CONFIG}",
    ),
    "edited configuration": BrokenHost(
        f"cp -p {CONFIG} /root; echo '# mine' >> {CONFIG}",
        "configuration-stale",
        "the service has",
        f"mv /root/demo.yml {CONFIG}",
        outcome="warning",
    ),
    "releases below /home": BrokenHost(
        f"mkdir /home/admin; mv /opt/litellm-systemd /home/admin; ln -s /home/admin/litellm-systemd /opt/; {FAIL}",
        "files-unreadable",
        "/opt/litellm-systemd leads to /home/admin/litellm-systemd, which the sandbox of the service hides",
        f"rm /opt/litellm-systemd; mv /home/admin/litellm-systemd /opt; systemctl stop litellm; {START}",
    ),
    # --- units ---
    "masked": BrokenHost(
        f"mv {UNIT} /root; systemctl mask litellm",
        "unit-masked",
        "LoadState=masked",
        f"systemctl unmask litellm; mv /root/litellm.service {UNIT}; systemctl daemon-reload;"
        " systemctl enable -q litellm",
    ),
    "User=root": BrokenHost(
        drop_in("Nice=1", "User=root"), "unit-root", f"{DROP_INS}/mine.conf:3: User=root", NO_DROP_IN
    ),
    "sandbox removed": BrokenHost(
        drop_in("ProtectSystem=no"), "unit-sandbox", "mine.conf:2: ProtectSystem=no", NO_DROP_IN, outcome="warning"
    ),
    "other command": BrokenHost(
        drop_in("ExecStart=", "ExecStart=/usr/bin/sleep 1000"),
        "unit-overridden",
        "mine.conf:3",
        NO_DROP_IN,
        outcome="warning",
    ),
    "unit of another tool": BrokenHost(
        f"cp {UNIT} /root; printf '[Service]\\nUser=litellm\\nEnvironmentFile=/etc/litellm/litellm.env\\n"
        f"ExecStart=/usr/local/bin/litellm\\n' >{UNIT}; systemctl daemon-reload; {FAIL}",
        "unit-overridden",
        f"{UNIT}: Type=simple, NotifyAccess=none, KillMode=control-group, ExecStart=/usr/local/bin/litellm",
        f"mv /root/litellm.service {UNIT}; systemctl daemon-reload; systemctl stop litellm; {START}",
    ),
    "start that will miss a mount": BrokenHost(
        f"mkdir -p {DROP_INS}; printf '[Unit]\\nRequires=mnt-efs.mount\\n' >{DROP_INS}/mine.conf;"
        " systemctl daemon-reload",
        "unit-dependency",
        f"{DROP_INS}/mine.conf:2: Requires=mnt-efs.mount: mnt-efs.mount does not exist, so the next start fails",
        NO_DROP_IN,
        outcome="warning",
    ),
    "typo in the command": BrokenHost(
        drop_in("ExecStart=", "ExecStart=/opt/litellm-systemd/curent/bin/python -I -m litellm_systemd.runtime")
        + f"; {FAIL}",
        "unit-overridden",
        "mine.conf:3: ExecStart=/opt/litellm-systemd/curent/bin/python",
        f"{NO_DROP_IN}; systemctl stop litellm; {START}",
    ),
    "memory limit that nothing enforces": BrokenHost(
        drop_in("MemoryMax=50M"),
        "host-cgroup-memory",
        "mine.conf:2: MemoryMax=52428800, but ",
        NO_DROP_IN,
        outcome="warning",
    ),
    "command before the service that fails": BrokenHost(
        f"{drop_in('ExecStartPre=/usr/bin/test -f /etc/none')}; {FAIL}",
        "unit-drop-in",
        f"{DROP_INS}/mine.conf:2: ExecStartPre=/usr/bin/test -f /etc/none; litellm.service: Control process exited, ",
        f"{NO_DROP_IN}; systemctl stop litellm; {START}",
    ),
    "configuration hidden by the sandbox": BrokenHost(
        drop_in("InaccessiblePaths=/etc/litellm") + "; ! systemctl restart litellm",
        "unit-start-error",
        f"{DROP_INS}/mine.conf:2: InaccessiblePaths=/etc/litellm: ",
        f"{NO_DROP_IN}; {START}",
    ),
    # A restart is refused, and leaves no standby that systemd cannot load.
    "unit without a command": BrokenHost(
        drop_in("ExecStart=") + "; ! litellmctl restart",
        "unit-bad",
        "bad-setting",
        f"test ! -e /run/systemd/system/litellm-standby.service.d || exit 1; {NO_DROP_IN}",
    ),
    "two commands": BrokenHost(
        drop_in("ExecStart=/usr/bin/sleep 1000"), "unit-bad", "mine.conf:2: litellm.service: ", NO_DROP_IN
    ),
    "line that systemd ignores": BrokenHost(
        drop_in("MemoryMaxx=1G"), "unit-line", "mine.conf:2: Unknown key", NO_DROP_IN, outcome="warning"
    ),
    "section header without its bracket": BrokenHost(
        drop_in("Nice=1") + f"; sed -i 's/]//' {DROP_INS}/mine.conf; systemctl daemon-reload",
        "unit-line",
        "mine.conf:1: Invalid section header",
        NO_DROP_IN,
    ),
    "unit from elsewhere": BrokenHost(
        f"mkdir /etc/systemd/system.control; cp {UNIT} /etc/systemd/system.control; systemctl daemon-reload",
        "unit-foreign",
        "/etc/systemd/system.control",
        "rm -r /etc/systemd/system.control; systemctl daemon-reload",
    ),
    "unit not reloaded": BrokenHost(drop_in("Nice=1", reload=False), "unit-stale", "mine.conf", outcome="warning"),
    "not enabled": BrokenHost(
        "systemctl disable litellm",
        "unit-disabled",
        "litellm.socket: UnitFileState=disabled, ActiveState=active, litellm.service: UnitFileState=disabled",
        outcome="warning",
    ),
    "socket disabled and stopped": BrokenHost(
        "systemctl disable --now litellm.socket",
        "unit-disabled",
        "litellm.socket: UnitFileState=disabled, ActiveState=inactive",
        "systemctl enable litellm.socket; systemctl start litellm",
        outcome="warning",
    ),
    # --- exits, and the port ---
    "port taken": BrokenHost(TAKE_PORT, "port-taken", "python3 (pid ", f"systemctl stop other; {START}"),
    "port taken by a socket unit": BrokenHost(
        "systemctl stop litellm litellm.socket;"
        " systemd-run --quiet --unit=other --socket-property=ListenStream=127.0.0.1:4000 /bin/sleep 9;"
        " ! systemctl start litellm",
        "port-taken",
        "is listening there. Stop it, or set another PORT. (other.socket)",
        f"systemctl stop other.socket; {START}",
    ),
    "second address of the socket that excludes the first": BrokenHost(
        "systemctl stop litellm litellm.socket; mkdir -p /etc/systemd/system/litellm.socket.d;"
        " printf '[Socket]\\nListenStream=0.0.0.0:4000\\n' > /etc/systemd/system/litellm.socket.d/mine.conf;"
        " systemctl daemon-reload; ! systemctl start litellm",
        "port-socket-failed",
        "litellm.socket has 127.0.0.1:4000 and 0.0.0.0:4000, which exclude each other",
        f"rm -r /etc/systemd/system/litellm.socket.d; systemctl daemon-reload; {START}",
    ),
    "command before the service that systemd cannot execute": BrokenHost(
        "printf '#!/bin/sh\\ntrue\\n' > /usr/local/bin/fetch; chmod 644 /usr/local/bin/fetch;"
        f" {drop_in('ExecStartPre=/usr/local/bin/fetch')}; {FAIL}",
        "unit-drop-in",
        "status=203/EXEC; /usr/local/bin/fetch is not executable",
        f"systemctl stop litellm; {NO_DROP_IN}; rm /usr/local/bin/fetch; {START}",
    ),
    "socket stopped alone": BrokenHost(
        "systemctl stop --job-mode=ignore-dependencies litellm.socket",
        "port-closed",
        "litellm.socket is inactive",
        "systemctl restart litellm.socket litellm.service",
    ),
    "/run/litellm removed": BrokenHost(
        "rm -r /run/litellm",
        "service-silent",
        "/run/litellm/control.sock was removed while the service runs",
        "systemctl restart litellm",
    ),
    "callback that raises an exception": BrokenHost(
        f"{ADD_CALLBACK}; printf 'handler = 1\n1 / 0\n' > {CALLBACK}; {FAIL}",
        "unit-start-error",
        f"{CALLBACK}:2 raised an exception: ",
        f"{NO_CALLBACK}; {START}",
    ),
    "callback that does not end": BrokenHost(
        f"{ADD_CALLBACK}; printf 'import time\ntime.sleep(600)\nhandler = 1\n' > {CALLBACK};"
        " systemctl restart --no-block litellm;"
        " until systemctl show litellm -p StatusText | grep -q running; do sleep 0.5; done",
        "unit-start-error",
        f"{CALLBACK}:2 has not ended: starting 2 workers; still running: time.sleep",
        f"{NO_CALLBACK}; systemctl stop litellm; {START}",
        outcome="warning",
    ),
    "callback without its package": BrokenHost(
        f"{ADD_CALLBACK}; printf 'import none_such\nhandler = 1\n' > {CALLBACK}; {FAIL}",
        "configuration-package",
        f"{CALLBACK}:1:1: this imports none_such, which is neither ",
        f"{NO_CALLBACK}; {START}",
    ),
    "start limit": BrokenHost(
        drop_in("ExecStartPre=/bin/false") + f"; printf '[Unit]\\nStartLimitBurst=2\\n' > {DROP_INS}/limit.conf;"
        " systemctl daemon-reload; ! systemctl restart litellm;"
        f" until systemctl is-failed -q litellm; do sleep 0.2; done; {NO_DROP_IN}",
        "unit-start-limit",
        "Start request repeated too quickly",
    ),
    "keys guessed": BrokenHost(
        GUESS_KEYS,
        "service-guessing",
        "127.0.0.1: 2 guesses",
        "systemctl restart litellm",
        outcome="warning",
    ),
    "failed reload": BrokenHost(
        f"{TYPO}; ! systemctl reload litellm; {NO_TYPO}",
        "service-reload-failed",
        "model_list",
        "systemctl reload litellm",
        outcome="warning",
    ),
}

#: On a host with METRICS=127.0.0.1:9400.
METRICS_BROKEN = {
    "counters full": BrokenHost(
        "mount -t tmpfs -o size=64k,mode=0700,uid=$(id -u litellm),gid=$(id -g litellm) tmpfs /run/litellm-metrics;"
        " head -c 1M /dev/zero > /run/litellm-metrics/fill || true",
        "metrics-folder",
        "/run/litellm-metrics has 0 KiB",
        # Until the next state is written, the service reports the error of the last one.
        "umount --lazy /run/litellm-metrics; touch /run/repaired;"
        " until find /run/litellm-metrics -name state.json -newer /run/repaired | grep -q .; do sleep 0.1; done",
        outcome="warning",
    ),
    "counters of root": BrokenHost(
        "chown -R root:root /run/litellm-metrics/gone",
        "metrics-folder",
        "/run/litellm-metrics/gone belongs to another user",
        "chown -R litellm:litellm /run/litellm-metrics",
        outcome="warning",
    ),
    "scrapes without a key": BrokenHost(
        "touch /run/litellm-metrics/refused",
        "metrics-refused",
        "the last scrape was refused ",
        "rm /run/litellm-metrics/refused",
        outcome="warning",
    ),
}
METRICS_CLOSED = BrokenHost(
    "systemctl stop litellm-metrics.socket",
    "metrics-socket-closed",
    "litellm-metrics.socket is inactive",
    "systemctl restart litellm",
    outcome="warning",
)
METRICS_TAKEN = BrokenHost(
    "systemctl stop litellm; systemd-run --quiet --unit=other python3 -m http.server --bind 127.0.0.1 9400;"
    " until ss -ltn | grep -q :9400; do sleep 0.1; done; systemctl start litellm",
    "metrics-port-taken",
    "METRICS: cannot listen on 127.0.0.1:9400: python3 (pid ",
    "systemctl stop other; systemctl restart litellm",
    outcome="warning",
)
