"""From a commit to production: the stages that a build server calls one by one.

Only the standard library, so that an agent needs Python 3.11 and the tools it calls: git, a container engine, proxygen
and Ansible. No shell anywhere. Start reading at `stages`.
"""
