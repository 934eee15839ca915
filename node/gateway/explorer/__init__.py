"""The explorer: pages about the network, the hosts and their rollouts, from the same methods of the core that the API calls.

Read-only, whole without scripts, and nothing comes from elsewhere. A page is a value (`html.Element`) that is made from the core's
documents by pure functions; only `routes` asks and answers.

Source: docs/spec/explorer.md.
"""
