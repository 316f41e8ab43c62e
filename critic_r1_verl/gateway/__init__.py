# SPDX-License-Identifier: Apache-2.0
"""The gateway of `critic-r1 serve`: a server with OpenAI's chat API that answers with the best of N answers of another such server.

app.py has the routes, request.py reads what a client asks for, best_of.py samples answers and selects one, judging.py asks the judge,
upstream.py sends requests to the servers behind the gateway, stream.py writes events, bounds.py counts requests and checks keys,
errors.py holds the errors, settings.py the settings, server.py the process. docs/serving.md describes it to users.
"""
