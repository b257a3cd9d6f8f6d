"""Makes a pod that stays out of the chart's test pod. Usage: helm get hooks RELEASE | client_pod.py NAME

Reads YAML documents without a YAML library: the pod's document is handed on line by line, with another name, without the
hook's annotations, and with a command that waits.
"""

import re
import sys


def main() -> None:
    name = sys.argv[1]
    documents = re.split(r"^---\s*$", sys.stdin.read(), flags=re.MULTILINE)
    pod = next(d for d in documents if re.search(r"^kind: Pod$", d, flags=re.MULTILINE))
    pod = re.sub(r"^  name: .*$", f"  name: {name}", pod, count=1, flags=re.MULTILINE)
    pod = re.sub(r"^  annotations:\n(    .*\n)+", "", pod, count=1, flags=re.MULTILINE)
    pod = re.sub(r"^  activeDeadlineSeconds: .*\n", "", pod, count=1, flags=re.MULTILINE)
    pod = re.sub(r"command: .*", "command: [sleep, infinity]", pod, count=1)
    # The test's scripts and pictures are gone when the test is: mounts and volumes of its ConfigMap go too.
    pod = re.sub(r"^ +- \{name: (scripts|pictures), mountPath: .*\n", "", pod, flags=re.MULTILINE)
    pod = re.sub(r"^    - name: (scripts|pictures)\n(      .*\n)+", "", pod, flags=re.MULTILINE)
    print(pod)


main()
