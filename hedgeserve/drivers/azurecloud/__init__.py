"""The parts of the Azure driver: the API's connection, the login, request bodies, answers, errors, prices."""
